#!/usr/bin/env python3
"""Checks that every type name of the library has one definition.

Two classes with one name in one namespace, defined in different files, violate the one-definition rule: the linker uses the
inline functions of one of them for both, without a warning. Types in anonymous namespaces and inside functions and classes
are not checked.
"""
import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("include", "src")

COMMENT_OR_LITERAL = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<delimiter>[^(\s]*)\(.*?\)(?P=delimiter)"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.S)
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.M)
NAMESPACE = re.compile(r"\bnamespace(?:\s+([\w:]+))?\s*$")
TYPE = re.compile(r"\b(?:class|struct|union|enum(?:\s+(?:class|struct))?)\s+(?:\[\[[^\]]*\]\]\s*|alignas\([^)]*\)\s*)*"
                  r"((?:[A-Za-z_]\w*::)*[A-Za-z_]\w*(?:\s*<[^{}]*>)?)(?:\s+final)?\s*(?::(?!:)[^;{}]*)?$")


def definitions(text):
    """Returns (namespace, name) of each type that is defined at namespace scope, without anonymous namespaces."""
    text = DIRECTIVE.sub("", COMMENT_OR_LITERAL.sub('""', text))
    scopes = []  # name of a namespace, "" for an anonymous one, None for other braces
    start = 0
    for match in re.finditer(r"[{};]", text):
        before = text[start:match.start()]
        start = match.end()
        if match.group() == ";":
            continue
        if match.group() == "}":
            if scopes:
                scopes.pop()
            continue
        namespace = NAMESPACE.search(before)
        if namespace:
            scopes.append(namespace.group(1) or "")
            continue
        # Template parameters contain the keyword "class", too.
        found = TYPE.search(re.sub(r"\btemplate\s*<[^{}]*?>\s*(?=(?:class|struct|union)\b)", "", before))
        if found and None not in scopes and "" not in scopes:
            yield "::".join(scopes), re.sub(r"\s+", "", found.group(1))
        scopes.append(None)


def self_test():
    text = """
    namespace a { struct One { struct Inner {}; }; namespace { struct Two {}; } enum class Three : int { kX };
    template <class T> class Four final : public One<T> {}; template <> struct Five<int> {}; struct Six;
    void f(struct One* one) { struct Local {}; } class Seven : public One { void g() { if (true) {} } };
    namespace b::c { struct Eight { const char* text = "struct Nine {"; }; } } // struct Ten {}
    struct One::Private : One {};
    """
    expected = [("a", "One"), ("a", "Three"), ("a", "Four"), ("a", "Five<int>"), ("a", "Seven"), ("a::b::c", "Eight"),
                ("", "One::Private")]
    assert list(definitions(text)) == expected, list(definitions(text))


def main():
    self_test()
    places = collections.defaultdict(list)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".h", ".cpp", ".cu", ".cuh"}:
                for name in definitions(path.read_text()):
                    places[name].append(str(path.relative_to(ROOT)))
    problems = [f"{namespace}::{name} is defined in {' and in '.join(paths)}"
                for (namespace, name), paths in sorted(places.items()) if len(paths) > 1]
    for problem in problems:
        print(problem)
    print(f"{len(places)} types, {len(problems)} with more than one definition")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
