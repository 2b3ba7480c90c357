"""How long a text is in tokens, without the tokenizer of the model that will read it."""


def estimate(text: str) -> int:
    """About how many tokens `text` is: four ASCII characters each, any other character one of its own.

    Errs on the high side for natural language. Linear in the text, at most about 1 ms per million characters,
    so that it can be asked about prompts of any size on the event loop. Lone surrogates are counted like any character.
    """
    length = len(text)
    if text.isascii():
        return (length + 3) // 4
    ascii_length = len(text.encode("ascii", "ignore"))
    return (ascii_length + 3) // 4 + length - ascii_length
