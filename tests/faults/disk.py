"""A disk in memory that records which data is synced: it replays a trace, and drops the data that a power cut may lose."""
import ast
import random
import re

from trainings import must


class File:
    def __init__(self, data=b""):
        self.data = bytearray(data)
        self.synced = bytes(data)

    def sync(self):
        self.synced = bytes(self.data)

    def after_power_cut(self, damage, rng):
        """Returns the content after a power cut. Data at the end that was not synced may be lost."""
        if self.data == self.synced or damage == "names lost":
            return bytes(self.data)
        if damage == "all lost":
            return self.synced
        kept = len(self.synced) if self.data.startswith(self.synced) else 0
        kept = rng.randint(kept, len(self.data))
        tail = len(self.data) - kept if damage == "tail zero" else 0
        return bytes(self.data[:kept]) + bytes(tail)


class Folder:
    def __init__(self):
        self.entries = {}
        self.synced = {}
        self.changes = []  # operations since the last sync, each {name: node or None}

    def change(self, names):
        self.changes.append(names)
        self._apply(self.entries, names)

    @staticmethod
    def _apply(entries, names):
        for name, node in names.items():
            entries.pop(name, None)
            if node is not None:
                entries[name] = node

    def sync(self):
        self.synced = dict(self.entries)
        self.changes = []

    def after_power_cut(self, damage, rng):
        """Returns the names in the folder, where each operation since the last sync either is on the disk or not."""
        entries = dict(self.synced)
        for names in self.changes:
            if damage != "all lost" and rng.random() < 0.5:
                self._apply(entries, names)
        return entries


OF_A_DESCRIPTOR = ["write", "pwrite64", "fsync", "fdatasync", "ftruncate", "close"]
OF_A_PATH = ["openat", "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir", "rename", "renameat", "renameat2"]
CALL = re.compile(r"^\d+\s+(\w+)\((.*)\)\s+= (-?\d+)")
UNFINISHED = re.compile(r"^(\d+)\s+(.*) <unfinished \.\.\.>$")
CLOSE = re.compile(r"^close\((.*)$")
RESUMED = re.compile(r"^(\d+)\s+<\.\.\. \w+ resumed>(.*)$")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
DESCRIPTOR = re.compile(r"^(\d+|AT_FDCWD)<([^>]*)>")


def finished_calls(lines):
    """Returns (name, arguments, result) of the calls that succeeded, in the order in which they ended.

    A close comes where it begins: another thread may get its descriptor before it ends.
    """
    begun = {}
    for line in lines:
        if match := UNFINISHED.match(line):
            begun[match[1]] = line[:match.end(2)]
            if close := CLOSE.match(match[2]):
                begun[match[1]] = None
                yield "close", close[1], 0
            continue
        if match := RESUMED.match(line):
            beginning = begun.pop(match[1])
            if beginning is None:
                continue
            line = beginning + match[2]
        if (match := CALL.match(line)) and int(match[3]) >= 0:
            yield match[1], match[2], int(match[3])


class Disk:
    """The content of a folder, which is completely synced at the beginning."""

    def __init__(self, content, root):
        """content: a real folder with the content; root: the path of the folder in the calls."""
        self.root = str(root)
        self.top = Folder()
        self.open = {}  # descriptor: [node, position]
        for path in sorted(content.rglob("*")):
            parent, name = self._parent(str(root / path.relative_to(content)))
            parent.entries[name] = Folder() if path.is_dir() else File(path.read_bytes())
        for node in self._nodes(self.top):
            node.sync()

    def _nodes(self, folder):
        yield folder
        for node in folder.entries.values():
            yield from self._nodes(node) if isinstance(node, Folder) else [node]

    def _parts(self, path):
        inside = path == self.root or path.startswith(self.root + "/")
        return [part for part in path[len(self.root):].split("/") if part] if inside else None

    def _node(self, path):
        node = self.top
        for part in self._parts(path):
            node = node.entries.get(part) if isinstance(node, Folder) else None
        return node

    def _parent(self, path):
        *folders, name = self._parts(path)
        return self._node("/".join([self.root, *folders])), name

    def play(self, name, arguments, result):
        """Replays a call of a trace by `strace -y` with complete strings. Calls outside the folder are ignored."""
        if name not in OF_A_DESCRIPTOR + OF_A_PATH:
            return
        strings = [ast.literal_eval("b" + text) for text in STRING.findall(arguments)]
        at = DESCRIPTOR.match(arguments)
        if name in OF_A_DESCRIPTOR:
            descriptor = int(at[1])
            is_inside = self._parts(at[2]) is not None
            must(is_inside == (descriptor in self.open),
                 f"{name}({arguments[:200]}: the descriptor belongs to another file")
            if is_inside:
                self._with_descriptor(name, descriptor, strings, arguments, result)
            return
        folder = at[2] if at else ""
        paths = [text.decode() for text in strings]
        paths = [path if path.startswith("/") else f"{folder}/{path}" for path in paths]
        if any(self._parts(path) is None for path in paths):
            return
        if name == "openat":
            self._open(paths[0], arguments, result)
        elif name in ("mkdir", "mkdirat"):
            parent, last = self._parent(paths[0])
            parent.change({last: Folder()})
        elif name in ("unlink", "unlinkat", "rmdir"):
            parent, last = self._parent(paths[0])
            parent.change({last: None})
        else:
            (source, old), (target, new) = self._parent(paths[0]), self._parent(paths[1])
            node = source.entries[old]
            if source is target:
                source.change({old: None, new: node})
            else:
                target.change({new: node})
                source.change({old: None})

    def _open(self, path, arguments, descriptor):
        node = self._node(path)
        if node is None:
            parent, last = self._parent(path)
            node = File()
            parent.change({last: node})
        elif "O_TRUNC" in arguments:
            node.data.clear()
        self.open[descriptor] = [node, len(node.data) if "O_APPEND" in arguments else 0]

    def _with_descriptor(self, name, descriptor, strings, arguments, result):
        node, position = self.open[descriptor]
        if name in ("fsync", "fdatasync"):
            node.sync()
        elif name == "close":
            del self.open[descriptor]
        elif name == "ftruncate":
            size = int(arguments.rsplit(",", 1)[1])
            node.data[size:] = bytes(max(0, size - len(node.data)))
        else:
            if name == "pwrite64":
                position = int(arguments.rsplit(",", 1)[1])
            if position > len(node.data):
                node.data += bytes(position - len(node.data))
            node.data[position:position + result] = strings[0][:result]
            if name == "write":
                self.open[descriptor][1] = position + result

    def write_to(self, folder, damage=None, seed=0):
        """Returns the content now or, with a damage, after a power cut."""
        self._write(self.top, folder, damage, random.Random(seed))

    def _write(self, node, folder, damage, rng):
        entries = node.after_power_cut(damage, rng) if damage else node.entries
        for name, child in entries.items():
            path = folder / name
            if isinstance(child, Folder):
                path.mkdir()
                self._write(child, path, damage, rng)
            else:
                path.write_bytes(child.after_power_cut(damage, rng) if damage else child.data)
