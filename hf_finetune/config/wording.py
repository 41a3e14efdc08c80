"""A message that names flags of the command line, in the words of a Python call."""

from __future__ import annotations

import re

from hf_finetune.config.arguments import argument_fields

# Arguments of the public functions that are not keys of a recipe.
_OTHER_ARGUMENTS = (
    "batch_size",
    "class_name",
    "embeddings",
    "format",
    "images",
    "layer",
    "method",
    "output",
    "quantize",
    "recipe",
    "shard_size",
    "split",
    "top_k",
)
_FLAG = re.compile(
    r"--(?P<name>\w+)(?P<values>(?: (?:'[^']*'|\[[^\]]*\]|-?\d[\w.+-]*|true|false|null|[A-Z_]{3,}|(?!--)[\w./~-]+))*)"
)
_WORD = re.compile(r"'[^']*'|\[[^\]]*\]|\S+")
# Words that follow a flag in a sentence, and are not its value.
_PROSE = frozenset(
    [
        "and",
        "another",
        "as",
        "below",
        "beside",
        "for",
        "from",
        "if",
        "in",
        "is",
        "it",
        "needs",
        "of",
        "on",
        "one",
        "or",
        "out",
        "so",
        "that",
        "the",
        "there",
        "to",
        "too",
        "was",
        "where",
        "which",
        "with",
    ]
)
_CONSTANTS = {"true": "True", "false": "False", "null": "None"}


def python_wording(message: str) -> str:
    """Return a message with `--name value` written as `name=value`, and "command" as "call" where it means one.

    Args:
        message: One line that the command line would print, such as "use --seed 1, or --streaming".

    Returns:
        The line for a Python caller: "use seed=1, or streaming=True".
    """
    message = re.sub(r"\b([Tt]he same) command\b", r"\1 call", message)
    message = re.sub(r'\bflag ("?)--(\w+)', r"setting \1\2", message)
    message = re.sub(r'"--(\w+)"', r'"\1"', message)
    message = message.replace(" To list the flags of a command: hf-finetune COMMAND --help", " Settings lists them.")
    return _FLAG.sub(_as_argument, message)


def _as_argument(match: re.Match[str]) -> str:
    name = match["name"]
    fields = argument_fields()
    if name not in fields and name not in _OTHER_ARGUMENTS:
        return match[0]
    kind = str(fields[name].type) if name in fields else "str"
    words = _WORD.findall(match["values"])
    before = match.string[: match.start()].rstrip()
    if "bool" in kind and not (words and words[0].rstrip(".") in _CONSTANTS):
        without = before.endswith(("leave", "without", "given"))
        return (name if without else f"{name}=True") + match["values"]
    count = _count_of_values(words, kind)
    if not count:
        return name + match["values"]
    values = [_literal(word.removesuffix("."), kind) for word in words[:count]]
    several = count > 1 or ("list" in kind and not values[0].startswith("["))
    written = f"[{', '.join(values)}]" if several and values != ["None"] else values[0]
    end = "." if words[count - 1].endswith(".") else ""
    rest = "".join(f" {word}" for word in words[count:])
    return f"{name}={written}{end}{rest}"


def _count_of_values(words: list[str], kind: str) -> int:
    """Return how many of the words after a flag are its values, and not the rest of the sentence."""
    count = 0
    for word in words:
        bare = word.removesuffix(".")
        number = re.fullmatch(r"-?\d[\d.e+-]*", bare) is not None
        takes_words = "str" in kind or "list" in kind
        sure = number or bare in _CONSTANTS or bare[:1] in "'[" or (bare.isupper() and len(bare) > 2)
        if count and not (number and "list" in kind):
            break
        if not sure and (not takes_words or bare in _PROSE):
            break
        count += 1
        if word.endswith("."):
            break
    return count


def _literal(word: str, kind: str) -> str:
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    if word[:1] == "'":
        return word[1:-1]
    if word[:1] == "[" or (re.fullmatch(r"-?\d[\d.e+-]*", word) and kind != "str"):
        return word
    return word if word.isupper() and len(word) > 2 else f'"{word}"'
