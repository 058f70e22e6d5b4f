"""What a key of a multi-user Tiled server may do is known before it is needed."""

from contextlib import closing

import pytest
import uvicorn
from flow_runs import answers, eventually
from published_result import check_content, publish_result, write_result
from tiled.client.context import Context, password_grant
from tiled.server.app import build_app_from_config
from tiled.server.simple import ThreadedServer

from bluesky_multislice.catalog import PUBLISHING_SCOPES, STREAM_SCOPES, check_scopes, connect, missing_scopes
from bluesky_multislice.errors import CatalogError


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("users")
    users = {"users_to_passwords": {"anna": "her password"}}
    storage = {"writable_storage": [str(folder / "data")], "init_if_not_exists": True}
    app = build_app_from_config(
        {
            "authentication": {
                "secret_keys": ["a secret of the server " * 2],
                "providers": [
                    {"provider": "own", "authenticator": "tiled.authenticators:DictionaryAuthenticator", "args": users}
                ],
            },
            "database": {"uri": f"sqlite:///{folder / 'users.db'}", "init_if_not_exists": True},
            "trees": [{"path": "/", "tree": "catalog", "args": {"uri": str(folder / "catalog.db")} | storage}],
        }
    )
    with ThreadedServer(uvicorn.Config(app, port=0, log_config=None)).run_in_thread() as server:
        eventually(lambda: answers(f"{server}/healthz"))
        yield f"{server}/api/v1"


@pytest.fixture(scope="module")
def make_key(address):
    """Makes keys of a user."""
    context, _ = Context.from_any_uri(address)
    with closing(context):
        (provider,) = context.server_info.authentication.providers
        endpoint = provider.links["auth_endpoint"]
        tokens = password_grant(context.http_client, endpoint, provider.provider, "anna", "her password")
        context.configure_auth(tokens, remember_me=False)
        yield lambda *scopes: context.create_api_key(scopes=list(scopes) or None)["secret"]


@pytest.mark.parametrize(
    ("scopes", "missing"),
    [((), ()), (("read:metadata", "read:data"), ("write:metadata", "write:data", "create:node"))],
)
def test_scopes_that_a_key_lacks_are_named(address, make_key, scopes, missing):
    client = connect(address, make_key(*scopes))
    with closing(client.context):
        assert missing_scopes(client, PUBLISHING_SCOPES) == missing
        if missing:
            with pytest.raises(CatalogError, match="without write:metadata, write:data, create:node"):
                check_scopes(client, PUBLISHING_SCOPES)
            with pytest.raises(CatalogError, match="create:apikeys"):
                check_scopes(client, STREAM_SCOPES)
        else:
            check_scopes(client, PUBLISHING_SCOPES)


def test_a_key_that_may_not_register_files_uploads_them(address, make_key, tmp_path):
    client = connect(address, make_key(*PUBLISHING_SCOPES))
    with closing(client.context):
        result = write_result(tmp_path / "volume.h5")
        check_content(client[publish_result(client, result, "run")], result)
