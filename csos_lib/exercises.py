"""Exercises that check themselves: a verdict that says what is off in an answer."""

from collections.abc import Callable
from functools import update_wrapper


class Hint(Exception):
    """What is off in an answer, and what to try. How to use this book."""


def expect(condition: object, hint: str) -> None:
    """Raise Hint(hint) unless the condition holds.

    Args:
        condition: anything with a truth value, such as a comparison or a one-element tensor.
        hint: one or two sentences that say what is off, without the answer.

    Raises:
        Hint: the condition does not hold.

    How to use this book.
    """
    if not condition:
        raise Hint(hint)


class checker:
    """Decorator: a function that examines answers with `expect` becomes one that prints a verdict.

    Calling it prints "Right." or "Not yet" with what is off. It never raises, so that a chapter runs to its
    end with exercises left open. Its `verdict` returns the text instead: a chapter holds its checkers to the
    wrong answers that they must refuse.

    Args:
        examine: takes one answer or more, and raises `Hint` if one is not right.

    How to use this book.

    >>> @checker
    ... def check_two(answer):
    ...     expect(answer() == 2, "That is not 2.")
    >>> check_two(lambda: 3)
    Not yet. That is not 2.
    >>> check_two.verdict(lambda: 2)
    'Right.'
    """

    def __init__(self, examine: Callable[..., None]) -> None:
        update_wrapper(self, examine)
        self._examine = examine

    def verdict(self, *answers: object, **named: object) -> str:
        """What a call with these answers prints."""
        try:
            self._examine(*answers, **named)
        except Hint as hint:
            return f"Not yet. {hint}"
        except NotImplementedError:
            return "Not yet: the stub is still empty."
        except Exception as error:
            return f"Not yet: your code stopped with {type(error).__name__}: {error}."
        return "Right."

    def __call__(self, *answers: object, **named: object) -> None:
        print(self.verdict(*answers, **named))
