"""The API key of the Tiled server."""

from prefect.blocks.system import Secret

from bluesky_multislice.recipe import ServiceSettings, SettingsError


def tiled_key(settings: ServiceSettings) -> str | None:
    """Return the API key from the Prefect Secret block in the settings; None: the key is in ``TILED_API_KEY``.

    Raises:
        SettingsError: Prefect does not have the block.
    """
    if settings.tiled_key_block is None:
        return None
    try:
        block = Secret.load(settings.tiled_key_block)
        if not isinstance(block, Secret):
            raise TypeError("tiled_key must not be called from async code")
        return str(block.get())
    except ValueError as error:
        raise SettingsError(
            "MULTISLICE_TILED_KEY_BLOCK must name a Secret block of the Prefect server.",
            got=f"{settings.tiled_key_block!r}.",
            remedy="create it in the Prefect UI under Blocks, or set TILED_API_KEY instead.",
        ) from error
