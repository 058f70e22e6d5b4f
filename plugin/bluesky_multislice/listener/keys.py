"""Where the key of the Tiled server comes from."""

from prefect.blocks.system import Secret

from bluesky_multislice.recipe import ServiceSettings, SettingsError


def tiled_key(settings: ServiceSettings) -> str | None:
    """Return the key that the Secret block of the settings holds; None leaves it to ``TILED_API_KEY``.

    Raises:
        SettingsError: Prefect has no such block.
    """
    if settings.tiled_key_block is None:
        return None
    try:
        block = Secret.load(settings.tiled_key_block)
        if not isinstance(block, Secret):
            raise TypeError("the key is loaded in code that is not async only")
        return str(block.get())
    except ValueError as error:
        raise SettingsError(
            "MULTISLICE_TILED_KEY_BLOCK must name a Secret block of the Prefect server.",
            got=f"{settings.tiled_key_block!r}.",
            remedy="make it in the Prefect page under Blocks, or set TILED_API_KEY instead.",
        ) from error
