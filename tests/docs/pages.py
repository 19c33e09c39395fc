"""Pages of Markdown in parts: blocks of code, inline code, links, headings."""

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "launch" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

COMMANDS = (
    "python",
    "bash",
    "source",
    "pip",
    "vllm",
    "gcloud",
    "xpk",
    "docker",
    "kubectl",
    "sudo",
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code. language: of its fence; empty if it has none, or is indented."""

    language: str
    text: str
    line: int  # of its first line, from 1

    @property
    def is_commands(self) -> bool:
        """Whether its first line is typed into a shell."""
        words = [word for word in self.text.split() if not re.match(r"[A-Z_]+=", word)]
        return (
            self.language in ("", "bash", "sh") and bool(words) and words[0] in COMMANDS
        )


@dataclasses.dataclass(frozen=True)
class Page:
    path: Path
    blocks: list[Block]
    prose: str  # the page without its blocks

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def inline(self) -> list[str]:
        """What is between backticks, also over the end of a line; `\\|` of a table as `|`."""
        found = re.findall(r"`((?:[^`\n]|\n(?!\n))+)`", self.prose)
        return [" ".join(code.replace("\\|", "|").split()) for code in found]

    @property
    def links(self) -> list[str]:
        """Targets of links and pictures, those of other sites left out."""
        prose = re.sub(r"`[^`]*`", "", self.prose)
        targets = re.findall(r"\]\(([^)\s]+)\)", prose)
        return [target for target in targets if "://" not in target]

    @property
    def anchors(self) -> set[str]:
        """What a link to a heading of this page may name, as GitHub makes it."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}

    @property
    def commands(self) -> list[str]:
        """Every command of the page in one line each: of blocks, and inline."""
        lines = []
        for block in self.blocks:
            if block.is_commands:
                lines += block.text.replace("\\\n", " ").splitlines()
        lines += [
            code for code in self.inline if code.split()[0] in COMMANDS and " " in code
        ]
        return [" ".join(line.split()) for line in lines if line.strip()]


def read(path: Path) -> Page:
    """A page; blocks are fenced, or indented by four spaces and more behind an empty line."""
    blocks, prose, lines = [], [], path.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = re.match(r"( *)```(\w*)$", lines[number])
        if fence:
            end = next(
                n for n in range(number + 1, len(lines)) if lines[n].strip() == "```"
            )
            blocks.append(Block(fence[2], dedent(lines[number + 1 : end]), number + 2))
            number = end + 1
        elif lines[number].startswith("    ") and (
            number == 0 or not lines[number - 1].strip()
        ):
            end = number
            while end < len(lines) and (
                lines[end].startswith("    ") or not lines[end].strip()
            ):
                end += 1
            blocks.append(Block("", dedent(lines[number:end]), number + 1))
            number = end
        else:
            prose.append(lines[number])
            number += 1
    return Page(path, blocks, "\n".join(prose))


def dedent(lines: list[str]) -> str:
    margin = min(
        (len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0
    )
    return "\n".join(line[margin:] for line in lines).strip("\n") + "\n"


def tables(page: Page) -> list[list[list[str]]]:
    """Every table of a page as rows of cells; the first row is the header."""
    out, table = [], []
    for line in [*page.prose.splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip()[1:-1])
            table.append([cell.strip() for cell in cells])
        elif table:
            out.append([table[0], *table[2:]])
            table = []
    return out
