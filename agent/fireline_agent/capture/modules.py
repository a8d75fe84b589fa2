"""Kernel modules by three views, since what hides from one forgets another: /proc/modules, /sys/module, kallsyms.

Leaves to others: eBPF programs (bpf), the kernel's own log of what was loaded (kernel_log).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fireline_agent.capture.collector import Absent, Context, Sink
from fireline_agent.capture.params import refuse_unknown

VERSION: Final = "1"

# Symbols in brackets that are no modules: JITed programs, trampolines of ftrace and kprobes (kernel/kallsyms.c).
_NO_MODULES: Final = frozenset({"bpf", "__builtin__ftrace", "__builtin__kprobes"})
_MODULE_OF_SYMBOL: Final = re.compile(rb"\[([^\[\]\s]+)\]\s*\Z")
# Documentation/admin-guide/tainted-kernels.rst
_TAINTS: Final = {"O": "built outside the kernel's tree", "E": "not signed", "F": "forced in", "P": "proprietary"}
# Where tracing hooks show, for those who look closer.
_HOOKS: Final = ("kernel/debug/kprobes/list", "kernel/tracing/enabled_functions")


@dataclass(frozen=True)
class _View:
    """The modules that one source names; None where the source itself is not there."""

    source: Path
    modules: Mapping[str, Mapping[str, Any]] | None

    def __contains__(self, name: str) -> bool:
        return name in (self.modules or {})


def collect(context: Context, sink: Sink) -> None:
    """Write `kernel/modules.jsonl`, one record per module with what each view says, and the tracing hooks.

    Raises:
        Absent: no view knows a module and there is no /proc/modules: the kernel can't load any.
        ValueError: the order has params; there are none.
    """
    refuse_unknown(context.params)
    proc, sys = context.roots.proc, context.roots.sys
    listed, sysfs = _listed(proc / "modules"), _sysfs(sys / "module")
    symbols = _symbols(proc / "kallsyms")
    # Read the quickest view again: what was loaded or unloaded in the meantime is no contradiction.
    steady = _listed(proc / "modules")
    if listed.modules is None and not sysfs.modules and not symbols.modules:
        raise Absent(f"{listed.source} is not there and no other view knows a module: this kernel loads none")
    _write(listed, sysfs, symbols, sink)
    _note_differences(listed, steady, sysfs, symbols, sink)
    _note_taints(listed, sink)
    _write_hooks(sys, sink)


def _listed(path: Path) -> _View:
    """/proc/modules: name size references users state address (taints), see modules_fops in kernel/module/procfs.c."""
    try:
        lines = path.read_text(errors="backslashreplace").splitlines()
    except OSError:
        return _View(path, None)
    return _View(path, dict(_listed_module(line.split()) for line in lines if line.strip()))


def _listed_module(words: list[str]) -> tuple[str, dict[str, Any]]:
    words = words + ["-"] * (6 - len(words))
    taints = words[6].strip("()") if len(words) > 6 else ""
    return words[0], {
        "size": int(words[1]) if words[1].isdecimal() else 0,
        "references": words[2],
        "used_by": [user for user in words[3].split(",") if user not in ("", "-")],
        "state": words[4],
        "address": words[5],
        "taints": taints,
    }


def _sysfs(path: Path) -> _View:
    """/sys/module: loaded modules have `initstate`, built-in ones don't."""
    try:
        folders = sorted(path.iterdir())
    except OSError:
        return _View(path, None)
    loaded = (folder for folder in folders if (folder / "initstate").exists())
    return _View(path, {folder.name: {"state": _word(folder / "initstate"), **_origin(folder)} for folder in loaded})


def _origin(folder: Path) -> dict[str, str]:
    facts = {key: _word(folder / key) for key in ("version", "srcversion", "taint", "coresize")}
    return {key: value for key, value in facts.items() if value}


def _word(path: Path) -> str:
    try:
        return path.read_text(errors="backslashreplace").strip()[:200]
    except OSError:
        return ""


def _symbols(path: Path) -> _View:
    """/proc/kallsyms: how many symbols each module has. Names show also where addresses are hidden (kptr_restrict)."""
    counts: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for line in file:
                match = _MODULE_OF_SYMBOL.search(line) if b"[" in line else None
                if match is not None:
                    name = match[1].decode(errors="backslashreplace")
                    counts[name] = counts.get(name, 0) + 1
    except OSError:
        return _View(path, None)
    return _View(path, {name: {"symbols": count} for name, count in counts.items() if name not in _NO_MODULES})


def _write(listed: _View, sysfs: _View, symbols: _View, sink: Sink) -> None:
    views = {"proc_modules": listed, "sysfs": sysfs, "kallsyms": symbols}
    source = ", ".join(str(view.source) for view in views.values())
    with sink.artifact("kernel/modules.jsonl", source=source, method="procfs+sysfs") as artifact:
        artifact.facts["views"] = {
            key: None if view.modules is None else len(view.modules) for key, view in views.items()
        }
        for name in sorted({name for view in views.values() for name in view.modules or {}}):
            said = {key: (view.modules or {}).get(name) for key, view in views.items()}
            artifact.record({"name": name, **said})


def _note_differences(listed: _View, steady: _View, sysfs: _View, symbols: _View, sink: Sink) -> None:
    if listed.modules is None:
        summary = (
            f"{listed.source} can't be read although other views know modules: it is hidden, or /proc is restricted"
        )
        sink.finding("warning", "module-list-missing", str(listed.source), summary)
        return
    for name, views in _hidden(listed, steady, (sysfs, symbols)):
        summary = f"{name} shows in {views} but not in {listed.source}: something hides it"
        sink.finding("critical", "module-hidden", name, summary)
    for name in sorted(set(listed.modules) & set(steady.modules or {})):
        if sysfs.modules is not None and name not in sysfs:
            summary = f"{name} is loaded but has no folder in {sysfs.source}: it was taken out of sysfs"
            sink.finding("warning", "module-not-in-sysfs", name, summary)


def _hidden(listed: _View, steady: _View, others: tuple[_View, ...]) -> Iterator[tuple[str, str]]:
    for name in sorted({name for view in others for name in view.modules or {}}):
        if name not in listed and name not in steady and not _in_transit(name, others):
            yield name, " and ".join(str(view.source) for view in others if name in view)


def _in_transit(name: str, views: tuple[_View, ...]) -> bool:
    """Whether sysfs says that the module is just coming or going."""
    return any((view.modules or {}).get(name, {}).get("state") in ("coming", "going") for view in views)


def _note_taints(listed: _View, sink: Sink) -> None:
    for name, module in (listed.modules or {}).items():
        reasons = [meaning for letter, meaning in _TAINTS.items() if letter in module["taints"]]
        if reasons:
            sink.finding("notice", "module-taints", name, f"{name} taints the kernel: {', '.join(reasons)}")


def _write_hooks(sys: Path, sink: Sink) -> None:
    for place in _HOOKS:
        path = sys / place
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if content:
            name = f"kernel/{path.parent.name}-{path.name}.txt"
            with sink.artifact(name, source=str(path), method="tracefs") as artifact:
                artifact.write(content)
