"""The options that every command with a network and a key shares, written once.

`acting` gives a command those options and one opened `Profile` in their place. It decides which are offered: a command
that never asks a gateway takes no `--url`, one that signs nothing no `--dry-run`.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

from market.commands.output import JsonOption, errors_as_messages
from market.commands.profile import (
    ChainIdOption,
    DataDirOption,
    DeploymentOption,
    DryRunOption,
    KeystoreOption,
    PasswordOption,
    Profile,
    RpcOption,
    UrlOption,
)
from market.settings import DEFAULT_DATA_DIR

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "data_dir": (DataDirOption, DEFAULT_DATA_DIR),
    "url": (UrlOption, None),
    "rpc_url": (RpcOption, None),
    "deployment": (DeploymentOption, None),
    "chain_id": (ChainIdOption, None),
    "keystore": (KeystoreOption, None),
    "password_file": (PasswordOption, None),
}


def acting(
    *, gateway: bool = True, chain: bool = True, key: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's first parameter, its profile, by the shared options; errors become messages.

    A command with a `dry_run` parameter gets `--dry-run`. Every one gets `--json` as `as_json`.
    """
    left_out = set()
    if not gateway:
        left_out |= {"url"}
    if not chain:
        left_out |= {"rpc_url", "deployment", "chain_id"}
    if not key:
        left_out |= {"keystore", "password_file"}
    shared = {name: option for name, option in _OPTIONS.items() if name not in left_out}

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        hints = typing.get_type_hints(command, include_extras=True)
        own = list(inspect.signature(command).parameters.values())[1:]

        @functools.wraps(command)
        def run(*, as_json: bool, **given: Any) -> None:
            options = {name: given.pop(name) for name in shared}
            with errors_as_messages(as_json=as_json):
                command(Profile.load(**options), as_json=as_json, **given)

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = []
        for parameter in own:
            if parameter.name == "dry_run":
                parameters.append(parameter.replace(kind=keyword, annotation=DryRunOption, default=False))
            elif parameter.name != "as_json":
                parameters.append(parameter.replace(kind=keyword, annotation=hints[parameter.name]))
        parameters += [
            inspect.Parameter(name, keyword, annotation=hint, default=default)
            for name, (hint, default) in shared.items()
        ]
        parameters.append(inspect.Parameter("as_json", keyword, annotation=JsonOption, default=False))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del run.__wrapped__  # the signature is the one above
        return run

    return wrap
