"""Names for functions and classes: unknown names list the known ones, duplicates are refused."""

from collections.abc import Callable, Iterator

from dnnlib.util import UserError


class Registry:
    """Map names to functions or classes of one kind ('metric', 'network', ...)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries = {}

    def register(self, function: Callable) -> Callable:
        """Enter a function or class under its own name, as a decorator."""
        name = function.__name__
        if name in self._entries:
            raise ValueError(f"{self.kind} {name} is registered twice")
        self._entries[name] = function
        return function

    def __getitem__(self, name: str) -> Callable:
        if name not in self._entries:
            known = ", ".join(sorted(self._entries))
            raise UserError(f"unknown {self.kind} {name!r}; known: {known}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
