"""Bodies of answers to questions of our own."""

import aiohttp


async def bounded(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The whole body. Raises ValueError when it has more than `most` bytes, and what aiohttp raises."""
    body = bytearray()
    async for block in response.content.iter_any():
        body += block
        if len(body) > most:
            raise ValueError(f"the answer has more than {most} bytes")
    return bytes(body)
