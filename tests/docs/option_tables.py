"""Write the option tables of docs/reference/commands.md from the command line itself.

``make docs`` calls this file. A table stands between two comments of the page::

    <!-- options: train -->
    <!-- end of options -->

The options of every command have a table of their own, ``<!-- options: (common) -->``;
so have those that choose a series, ``<!-- options: (series) -->``, to which the tables
of the commands refer. ``<!-- options: (commands) -->`` is the list of all commands.
"""

import re
from pathlib import Path

import rich_click as click

from nnunet_bridge.cli import main
from nnunet_bridge.cli.fields import Group

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"
TABLE = re.compile(
    r"(?P<begin><!-- options: (?P<name>\S+) -->\n)(?P<body>.*?)"
    r"(?P<end><!-- end of options -->)",
    re.DOTALL,
)
SERIES = "| the options that [choose a series](#choice-of-series) | |"
_HEAD = "| option | meaning |\n|---|---|\n"
_DEFAULT = re.compile(r"\s*\[default: (?P<value>[^\]]*)\]$")


def with_tables(page):
    """Return a text of the page with its tables as the commands have them now."""
    return TABLE.sub(
        lambda found: f"{found['begin']}{table(found['name'])}{found['end']}", page
    )


def table(name):
    """Return the table of a command, or of all: common, series or commands."""
    if name == "(commands)":
        return "".join(map(_group, click.rich_click.COMMAND_GROUPS["nnunet-bridge"]))
    if name == "(common)":
        shown = [o for o in options("predict") if o.panel == Group.COMMON]
    elif name == "(series)":
        shown = [o for o in options("predict") if o.panel == Group.SERIES]
    else:
        shown = [o for o in options(name) if o.panel != Group.COMMON]
        rows = [row(o) for o in shown if o.panel != Group.SERIES]
        rows += [SERIES] if any(o.panel == Group.SERIES for o in shown) else []
        return _HEAD + "\n".join(rows) + "\n" if rows else ""
    return _HEAD + "\n".join(map(row, shown)) + "\n"


def _group(group):
    """Return the line of one group of commands, with links to their sections."""
    links = ", ".join(f"[`{name}`](#{name})" for name in group["commands"])
    return f"- {group['name']}: {links}\n"


def options(name):
    """Return the options of a command in the order of its help."""
    order = list(Group)
    found = [p for p in main.commands[name].params if isinstance(p, click.Option)]
    return sorted(found, key=lambda option: order.index(option.panel or Group.USUAL))


def row(option):
    """Return the row of one option."""
    flags = "/".join(filter(None, [", ".join(option.opts), *option.secondary_opts]))
    flags = flags.replace(", ", "`, `")
    cell = f"`{flags}{value(option)}`".replace("|", r"\|")
    return f"| {cell} | {meaning(option)} |"


def value(option):
    """Return what follows the flag, such as `` DIR``; nothing for a flag."""
    if option.is_flag:
        return ""
    if option.metavar:
        return f" {option.metavar}"
    if isinstance(option.type, click.Choice):
        return " " + "|".join(map(str, option.type.choices))
    return f" {option.type.name.upper()}"


def meaning(option):
    """Return the help of an option with its default as a sentence."""
    text, default = option.help or "", ""
    found = _DEFAULT.search(text)
    if found:
        text, default = text[: found.start()], found["value"]
    elif option.show_default:
        default = f"`{option.default}`"
    text = text if text.endswith(".") or not text else f"{text}."
    text += " Required." if option.required else ""
    text += f" Default: {default}." if default else ""
    text += f" Variable: `{option.envvar}`." if option.envvar else ""
    return text.replace("|", r"\|").strip()


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
