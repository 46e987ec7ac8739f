"""Exercises that check themselves: a verdict that always says what to try next."""

from collections.abc import Callable
from functools import wraps


class Hint(Exception):
    """What is off in an answer, and what to try. How to use this book."""


def expect(condition: object, hint: str) -> None:
    """Raise Hint(hint) unless the condition holds.

    Args:
        condition: anything with a truth value, such as a comparison or a one-element tensor.
        hint: one or two sentences that say what is off and what to try.

    Raises:
        Hint: the condition does not hold.

    How to use this book.
    """
    if not condition:
        raise Hint(hint)


def checker(first_hint: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: a function that examines answers with `expect` becomes one that prints a verdict.

    Args:
        first_hint: what to try when the answer is still the stub, or stops with an error of its own.

    Returns:
        A decorator. The decorated checker prints "Right." or "Not yet." with a hint. It never raises, so that
        a chapter runs to its end with exercises left open.

    How to use this book.

    >>> @checker("Return 2.")
    ... def check_two(answer):
    ...     expect(answer() == 2, "That is not 2.")
    >>> check_two(lambda: 3)
    Not yet. Hint: That is not 2.
    """

    def decorate(examine: Callable[..., None]) -> Callable[..., None]:
        @wraps(examine)
        def check(*answers: object) -> None:
            try:
                examine(*answers)
            except Hint as hint:
                print(f"Not yet. Hint: {hint}")
            except NotImplementedError:
                print(f"Not yet: the stub is still empty. Hint: {first_hint}")
            except Exception as error:
                print(f"Not yet: your code stopped with {type(error).__name__}: {error}. Hint: {first_hint}")
            else:
                print("Right.")

        return check

    return decorate
