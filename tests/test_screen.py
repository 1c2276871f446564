"""What is printed reaches the screen as text, whoever named it."""

import ast
import io
from pathlib import Path

from rich.table import Table

import optimum_ane
from optimum_ane.screen import make_console, say, visible

PACKAGE = Path(optimum_ane.__file__).parent
HOSTILE = "a\x1b]0;title\x07\x1b[2Jb\x9b31mc\rd\u202eefg\ud800"


def test_what_a_terminal_would_act_on_is_written_out():
    assert visible(HOSTILE) == r"a\x1b]0;title\x07\x1b[2Jb\x9b31mc\rd\u202eefg\ud800"
    assert visible("two\nlines\tand a tab") == "two\nlines\tand a tab"
    assert visible("naïve, 日本語, עברית, العربية, 👍🏽, é") == "naïve, 日本語, עברית, العربية, 👍🏽, é"


def test_lines_tables_and_titles_of_a_console():
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    file = io.StringIO()
    make_console(file=file, wraps=False).print(table)
    make_console(file=file, wraps=False).print(HOSTILE)
    assert file.getvalue().count(r"\x1b]0;title") == 4
    assert not {character for character in file.getvalue() if not character.isprintable()} - {"\n"}
    file.getvalue().encode()


def test_brackets_are_no_markup():
    file = io.StringIO()
    make_console(file=file).print("[/nothing] [bold]dataset[/bold]")
    assert file.getvalue() == "[/nothing] [bold]dataset[/bold]\n"


def test_a_line_of_a_command():
    file = io.StringIO()
    say(HOSTILE, file=file)
    assert file.getvalue() == visible(HOSTILE) + "\n"


def test_nothing_else_prints():
    calls = [
        (f"{path}:{node.lineno}", node)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "screen.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "Console")
    ]
    # JSON escapes what is not ASCII itself.
    assert [place for place, node in calls if not ast.unparse(node).startswith("print(json.dumps(")] == []
    assert calls
