"""ccxt's Kraken and Binance, without the hundred other venues that it would import.

`import ccxt.async_support` costs half a second and 100 MB, because its package files import
every venue, twice. Importing only the two modules behind package objects of our own costs a
third of the time and half the memory. What the two modules import of `ccxt` itself is there:
its errors and base classes. tests/integration/test_feeds.py holds this against the pinned
version.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

VENUE_MODULES: Final = ("kraken", "binance")


def ccxt_classes() -> Mapping[str, type[Any]]:
    """ccxt's asynchronous exchange class of each venue, by the venue's name.

    The first call imports. If a whole ccxt is imported already, that one is used.
    """
    if "ccxt.async_support" not in sys.modules:
        _import_slim()
    package = sys.modules["ccxt.async_support"]
    return {name: getattr(package, name) for name in VENUE_MODULES}


def ccxt_errors() -> ModuleType:
    """ccxt's error classes: the module `ccxt.base.errors`."""
    ccxt_classes()
    return import_module("ccxt.base.errors")


def _import_slim() -> None:
    spec = find_spec("ccxt")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("ccxt is not installed")
    root = spec.submodule_search_locations[0]
    top = sys.modules.setdefault("ccxt", _package("ccxt", root))
    errors = import_module("ccxt.base.errors")
    top.__dict__.update({name: getattr(errors, name) for name in errors.__all__})
    top.__dict__["Exchange"] = import_module("ccxt.base.exchange").Exchange
    package = _package("ccxt.async_support", f"{root}/async_support")
    sys.modules["ccxt.async_support"] = package
    top.__dict__["async_support"] = package
    package.__dict__["Exchange"] = import_module("ccxt.async_support.base.exchange").Exchange
    for name in VENUE_MODULES:
        module = import_module(f"ccxt.async_support.{name}")
        # As in the real package, the class hides the module of the same name.
        package.__dict__[name] = getattr(module, name)


def _package(name: str, folder: str) -> ModuleType:
    package = ModuleType(name)
    package.__path__ = [folder]
    package.__spec__ = ModuleSpec(name, loader=None, is_package=True)
    package.__spec__.submodule_search_locations = [folder]
    return package
