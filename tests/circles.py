#!/usr/bin/env python3
"""Finds circles of imports between the modules of each crate. Run it from anywhere: `python3 tests/circles.py`.

At each level (the files of a folder; the folders beside them, each with all that is below it) it draws an arrow
from each module to each one that it names, follows re-exports to who defines the name, and prints the groups that
reach each other. A module and its own children are one at the level above; between the children, what stands in
their parent itself does not count. Test code is left out. Crates need no check: the compiler forbids circles there.

It fails on a circle that is not within one of tests/circles.known, and says which of those to shorten. It also
fails if a crate is named outside its place (ONLY_IN).
"""
import re
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
# Circles that are there still, a line each: parent module, children. They must shrink.
KNOWN = [line.split() for line in (TOP / "tests/circles.known").read_text().splitlines() if line[0] != "#"]
# A crate, and the folders outside which nobody may name it.
ONLY_IN = {"fuser": "src/mount/", "redb": "crates/engine/src/journal/", "revm": "crates/chain/src/"}


def code(text):
    """Without comments, the content of strings, and what is for tests alone."""
    kept = r'//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"' + r"|'(?:\\[^']+|[^\\'])'"
    text = re.sub(kept, lambda m: "" if m[0].startswith("/") else '""', text, flags=re.S)
    while found := re.search(r"#\[cfg\((?:test|any\(test[^]]*)\)\]", text):
        depth = end = 0
        for end in range(found.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth <= 0 and text[end] in ";}":
                break
        text = text[: found.start()] + text[end + 1 :]
    return text


def expand(tree):
    """The paths of a `use`: (path, name that it gets)."""
    tree = tree.strip()
    if "{" in tree:
        head, rest = tree.split("{", 1)
        parts, depth, part = [], 0, ""
        for c in rest[: rest.rindex("}")]:
            depth += {"{": 1, "}": -1}.get(c, 0)
            if c == "," and depth == 0:
                parts, part = parts + [part], ""
            else:
                part += c
        return [found for p in parts + [part] if p.strip() for found in expand(head + p.strip())]
    path, _, name = tree.partition(" as ")
    path = [p.strip() for p in path.split("::") if p.strip()]
    if path[-1] == "self":
        path.pop()
    return [(path, name.strip() or path[-1])]


def modules(src):
    """Module path to its code, of all files below `src` that are not tests."""
    found = {}
    for file in src.rglob("*.rs"):
        path = [p for p in file.relative_to(src).with_suffix("").parts if p not in ("mod", "lib", "main")]
        if not {"tests", "testing"} & set(path):
            found[tuple(path)] = found.get(tuple(path), "") + code(file.read_text())
    return found


class Crate:
    def __init__(self, src):
        self.code = modules(src)
        self.uses = {m: [u for t in re.findall(r"\buse\s+([^;]+);", c) for u in expand(t)] for m, c in self.code.items()}

    def home(self, module, path, seen=()):
        """The module that defines what `path` names in `module`; None outside of the crate."""
        at, path = module, list(path)
        if path[0] == "crate":
            at, path = (), path[1:]
        elif path[0] in ("self", "super"):
            while path and path[0] in ("self", "super"):
                at, path = at[: len(at) - (path[0] == "super")], path[1:]
        elif at + (path[0],) not in self.code and not any(name == path[0] for _, name in self.uses[at]):
            return None
        while path and at + (path[0],) in self.code:
            at, path = at + (path[0],), path[1:]
        for target, name in self.uses.get(at, []) if path else []:
            if name == path[0] and (at, name) not in seen and (target[0], name) != ("self", name):
                return self.home(at, target + path[1:], (*seen, (at, name)))
        return at

    def arrows(self):
        for module, text in self.code.items():
            inline = re.findall(r"\b((?:crate|super|self)(?:::\w+)+)", re.sub(r"\buse\s+[^;]+;", "", text))
            paths = [path for path, _ in self.uses[module]] + [p.split("::") for p in inline]
            for to in {self.home(module, path) for path in paths} - {None, module}:
                yield module, to

    def circles(self):
        levels = {}
        for a, b in self.arrows():
            same = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)
            if same is not None:
                levels.setdefault(a[:same], {}).setdefault(a[same], set()).add(b[same])
        for parent, to in levels.items():
            reach = {a: set(bs) for a, bs in to.items()}
            for middle in list(reach):
                for a in reach:
                    if middle in reach[a]:
                        reach[a] |= reach[middle]
            groups = {frozenset(b for b in reach if b in reach[a] and a in reach[b]) for a in reach if a in reach[a]}
            for group in groups:
                yield "::".join(parent), sorted(group), {a: sorted(to[a] & group) for a in sorted(group)}


def main():
    bad, found = [], []
    for src in [TOP / "src", *sorted(TOP.glob("crates/*/src"))]:
        crate = "pxfs" if src.parent == TOP else src.parent.name
        for parent, names, arrows in Crate(src).circles():
            where = f"{crate}::{parent}".removesuffix("::")
            print(f"circle in {where}:", *(f"    {a} -> {', '.join(to)}" for a, to in arrows.items()), sep="\n")
            found.append((where, set(names)))
            if not any(where == known and set(names) <= set(of) for known, *of in KNOWN):
                bad.append(f"not known: {where}: {' '.join(names)}")
        for file in src.rglob("*.rs"):
            name = str(file.relative_to(TOP))
            for word, places in ONLY_IN.items():
                named = re.search(rf"\b{word}::", code(file.read_text()))
                if named and "tests" not in name and not name.startswith(places):
                    bad.append(f"{name} names {word}, which belongs to {places}")
    for known, *of in KNOWN:
        if (known, set(of)) not in found:
            print(f"shorten in tests/circles.known: {known} {' '.join(of)}")
    print("\n".join(bad) if bad else "no circle that is not known")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
