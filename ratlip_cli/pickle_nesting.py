"""How deep a pickle nests its tuples, found without making any of them. Standard library only.

Python's hash() of a tuple calls itself for each tuple inside, and counts no depth: a pickle of a few hundred thousand
bytes, with a key of tuples in tuples, ends the process that reads it.
"""

from __future__ import annotations

import pickletools
from typing import BinaryIO

DEEPEST = 100
"""Far above what files of tensors have, which is four: tensor, its arguments, where its numbers lie, their kind."""

_CHANGES = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
"""Opcodes that put things into one that is there: a list, dictionary or object that changes is no key."""


def check_nesting(file: BinaryIO) -> None:
    """Read one pickle up to its end, and raise ValueError where it nests tuples, or calls, deeper than DEEPEST.

    Raises what a damaged pickle makes Python's `pickletools` raise, and IndexError or KeyError where it takes what it
    never gave.
    """
    stack: list[int] = []  # the depth of each value on the unpickler's stack
    marks: list[int] = []
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name, before = opcode.name, opcode.stack_before
        if name == "MARK":
            marks.append(len(stack))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name.endswith("PUT"):
            memo[int(str(argument))] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[int(str(argument))])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        else:
            marked = pickletools.markobject in before
            start = marks.pop() - before.index(pickletools.markobject) if marked else len(stack) - len(before)
            if start < 0:
                raise IndexError("it takes more than it gave")
            used = stack[start:]
            depth = used[0] if name in _CHANGES else 1 + max(used, default=-1)
            if depth > DEEPEST:
                raise ValueError("it nests tuples without end")
            stack[start:] = [depth] * len(opcode.stack_after)
