"""What an orchestration may ask for: a text, and servers for it.

Servers that one text has to itself (:mod:`dsim.events.servers`) and servers that requests share
(:mod:`dsim.deployment.shares`) stand behind the same ports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import simpy

    from dsim.events.forward import Backend, Forward
    from dsim.events.output import Output
    from dsim.model.case import Decoding
    from dsim.model.lookahead import Plan

D = TypeVar("D")


class ServerPort(Protocol):
    """One server, of a drafter or of the target, asked for one forward at a time.

    Attributes:
        backend: its ``verify`` judges drafts.
        output: the text that it works on.
    """

    @property
    def backend(self) -> Backend:
        """What answers the forwards."""

    @property
    def output(self) -> Output:
        """The text that the server works on."""

    def forward(
        self,
        first: int,
        ahead: int = 0,
        block: tuple[int, int, int] | None = None,
        fed: Sequence[Any] | None = None,
        /,
    ) -> Forward:
        """Begin a forward over the text so far, for the tokens from *first* on.

        Args:
            first: the first position whose token is wanted.
            ahead: a hint; see :class:`dsim.events.forward.Forward`.
            block: a hint; see :class:`dsim.events.forward.Forward`.
            fed: what it reads instead of the end of the text; see
                :class:`dsim.events.forward.Forward`.

        Raises:
            RuntimeError: the server is busy with another forward.
        """

    def cancel(self, forward: Any, /) -> None:
        """Give up *forward*, which has not ended: its answer is not wanted."""


class PoolPort(Protocol):
    """Several target servers.

    Attributes:
        backend: its ``verify`` judges drafts.
        callbacks: called with each pass that ends by itself, its server being free again.
    """

    callbacks: list[Callable[[Any], None]]

    @property
    def backend(self) -> Backend:
        """What answers the passes."""

    @property
    def free(self) -> Any:
        """True if a pass may begin now."""

    def forward(self, first: int, fed: Sequence[Any] | None = None, /) -> Forward:
        """Begin a pass over the text so far, for the tokens from *first* on.

        Args:
            first: see :class:`ServerPort`.
            fed: see :class:`ServerPort`.

        Raises:
            IndexError: no server is free.
        """

    def wait(self, dispatch: Callable[[], None], /) -> None:
        """Have *dispatch* called when a server is free for this text."""

    def prefill(self) -> None:
        """Let every free server read the prompt; this is not a pass."""

    def cancel(self, forwards: Iterable[Any], /) -> None:
        """Give up *forwards*: their answers are not wanted."""


class Setup(Protocol):
    """What an orchestration starts from.

    Attributes:
        env: the environment of the run.
        output: the text to generate.
        plan: where ``k``, drafts per block, comes from.
        prefill: whether every target server of a pool has to read the prompt first.
        further_drafters: how many drafters there are beside the first.
        decoding: how the text is made: the settings that an orchestration reads.
    """

    env: simpy.Environment
    output: Output
    plan: Plan
    prefill: bool
    further_drafters: int
    decoding: Decoding

    def drafter(self, number: int = 0) -> ServerPort:
        """The server of drafter *number*; 0 leads, the others have outputs of their own.

        Any of them can draft for ``output``, too.

        Raises:
            IndexError: there are not so many.
        """

    def target(self) -> ServerPort:
        """One target server, for an orchestration that waits for each pass."""

    def targets(self) -> PoolPort:
        """The target servers, for an orchestration that has several passes under way at once."""


class SetupParts:
    """What every setup says to who wrote an orchestration that looks for something else."""

    @staticmethod
    def numbered(drafters: Sequence[D], number: int) -> D:
        """Drafter *number* of *drafters*.

        Raises:
            IndexError: there are not so many.
        """
        if not 0 <= number < len(drafters):
            there = f"is {len(drafters)} drafter" if len(drafters) == 1 else f"are {len(drafters)}"
            raise IndexError(
                f"setup.drafter({number}): there {there}, number 0 the first; how many further "
                "ones there are is setup.further_drafters (settings more_drafters.…)"
            )
        return drafters[number]

    @staticmethod
    def rightly(asked: bool, declared: bool) -> None:
        """See to it that who asks for several target servers, and nobody else, declares it.

        Args:
            asked: whether several are asked for.
            declared: whether traits say so.

        Raises:
            TypeError: they say otherwise.
        """
        if asked and not declared:
            raise TypeError(
                "setup.targets() is for traits with several_targets=True; one server is "
                "setup.target()"
            )
        if declared and not asked:
            raise TypeError(
                "setup.target() is not for traits with several_targets=True; their servers are "
                "setup.targets()"
            )

    def __getattr__(self, name: str) -> Any:
        """Say what there is.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(
            f"a setup has no {name!r}: it has {', '.join(Setup.__annotations__)}, drafter(), "
            "target(), targets() (settings are in decoding)"
        )
