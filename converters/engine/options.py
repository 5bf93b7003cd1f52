"""How a conversion is carried out: what a user may choose, apart from what it does."""

from dataclasses import dataclass

MIB, GIB = 1 << 20, 1 << 30
VERIFY = ("full", "deep", "sample", "none")


@dataclass(frozen=True)
class Options:
    """The choices.

    Attributes:
        max_memory: how many bytes of memory the process may take in all.
        verify: `full` compares every bit that was moved and proves every reference, `deep` decodes
            what is shared by reference as well, `sample` looks at some chunks, `none` at nothing.
        link: share data files with the source by hard links, where that is possible.
        ocdbt: keep the result in one OCDBT database, or in plain directories; None as the source.
        zarr: the Zarr version of the result, 2 or 3; None as the source.
        chunk: no chunk that is written anew is larger, in bytes.
        fsync: force what is new to the disk before it gets its name.
        threads: how many chunks are worked on at once; None as many as memory and CPUs allow.
    """

    max_memory: int = 4 * GIB
    verify: str = "full"
    link: bool = True
    ocdbt: bool | None = None
    zarr: int | None = None
    chunk: int = 64 * MIB
    fsync: bool = True
    threads: int | None = None
