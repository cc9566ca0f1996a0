"""Makes one C++ file from the ```cpp blocks of Markdown documents, so the compiler checks them.

The blocks of a document follow each other in one function. A block with a main() is a separate program. --program writes
the first program of the first document without changes. --check-links only checks that the targets of the documents'
relative links exist.
"""

import argparse
import re
import sys
from pathlib import Path

BLOCK = re.compile(r"^```cpp\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)|(?:src|href)=\"([^\":#]+)\"")


def blocks_of(document: Path) -> list[tuple[int, str]]:
    """Returns (number of the first line, text) of each block."""
    text = document.read_text()
    return [(text.count("\n", 0, match.start(1)) + 1, match.group(1)) for match in BLOCK.finditer(text)]


def translation_unit(documents: list[Path]) -> str:
    includes, bodies = [], []
    for number, document in enumerate(documents):
        steps = []
        for line, block in blocks_of(document):
            code = []
            for text in block.splitlines():
                # Includes are moved to the top. Every line keeps its number in messages.
                is_include = text.startswith("#include")
                if is_include:
                    includes.append(text)
                code.append("" if is_include else text)
            marked = f'#line {line} "{document.as_posix()}"\n' + "\n".join(code)
            if "int main(" in block:
                # Only a real main() may end without a return.
                program = marked.replace("int main(", "int program(").rstrip()
                assert program.endswith("}"), f"{document}:{line}: the program should end with its main()"
                bodies.append(f"namespace document_{number}_line_{line} {{\n{program[:-1]}  return 0;\n}}\n}}\n")
            else:
                steps.append(marked)
        if steps:
            body = "\n".join(steps)
            bodies.append(f"namespace document_{number} {{\nvoid show() {{\n{body}\n}}\n}}\n")
    return "\n".join(dict.fromkeys(includes)) + "\n\n" + "\n".join(bodies)


def dead_links(documents: list[Path]) -> list[str]:
    dead = []
    for document in documents:
        # Lambdas have the form of links.
        for match in LINK.finditer(CODE.sub("", document.read_text())):
            target = match.group(1) or match.group(2)
            if not (document.parent / target.strip()).exists():
                dead.append(f"{document}: no {target}")
    return dead


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", nargs="+", type=Path)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--output", type=Path, help="where the C++ file goes")
    mode.add_argument("--program", type=Path, help="where the first program of the first document goes")
    mode.add_argument("--check-links", action="store_true")
    arguments = parser.parse_args()

    if arguments.check_links:
        dead = dead_links(arguments.documents)
        print("\n".join(dead) or "all links lead somewhere")
        return 1 if dead else 0
    if arguments.program:
        programs = [block for _, block in blocks_of(arguments.documents[0]) if "int main(" in block]
        if not programs:
            sys.exit(f"{arguments.documents[0]}: no program among its ```cpp blocks")
        arguments.program.write_text(programs[0])
        return 0
    arguments.output.write_text(translation_unit(arguments.documents))
    return 0


if __name__ == "__main__":
    sys.exit(main())
