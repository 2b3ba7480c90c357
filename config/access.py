"""Whether requests need a key, which depends on more than one section."""

from ipaddress import ip_address

from config.schema import Config


def anonymous_allowed(config: Config) -> bool:
    """Whether requests without a key are taken: as `server.anonymous` says; where it says nothing, while there are no
    keys and nobody can reach the server from elsewhere."""
    if config.server.anonymous is not None:
        return config.server.anonymous
    return not config.keys and is_loopback(config.server.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there. Names other than localhost are not looked up."""
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"
