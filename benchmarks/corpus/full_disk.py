"""What is left of a corpus when the disk is full, at each page that is written, of a file system that is too small?"""

import os
import re
import subprocess

from vjepa2.errors import CorpusError
from vjepa2.runtime.corpus_output import list_shards, name_shard
from vjepa2.runtime.corpus_seal import CorpusSeal
from vjepa2.runtime.corpus_store import LocalStore
from vjepa2.runtime.corpus_table import read_shard

from .runs import Case, find_faults

_PAGE = 4096  # bytes, of tmpfs


def fill_disks(case: Case, reference: CorpusSeal) -> dict[str, object]:
    """Run into a tmpfs of one page, two, and so on until a run fits; then make room and run again."""
    if os.geteuid() != 0:
        return {"passed": False, "faults": ["a tmpfs can be mounted by root alone; nothing was tried"]}
    faults: list[str] = []
    messages: set[str] = set()
    pages = 0
    while True:
        pages += 1
        case.clear()
        case.output.mkdir(parents=True)
        _mount("-t", "tmpfs", "-o", f"size={pages * _PAGE}", "tmpfs", str(case.output))
        try:
            fitted, found = _fill(case, reference, messages)
        finally:
            subprocess.run(["/usr/bin/umount", "--lazy", str(case.output)], check=True)
        faults += [f"{pages} pages: {fault}" for fault in found]
        if fitted:
            break
    return {
        "file_system": "tmpfs",
        "sizes_tried": pages,
        "bytes_of_the_first_that_fits": pages * _PAGE,
        "faults": faults,
        "messages": sorted(messages),
        "passed": not faults and pages > 1,
    }


def _fill(case: Case, reference: CorpusSeal, messages: set[str]) -> tuple[bool, list[str]]:
    run = case.start("--workers", "1")
    words, code = run.communicate()[1], run.returncode
    if code == 0:  # the seal is one more file
        sealed = case.seal()
        words, code = sealed.stderr, sealed.returncode
    if code == 0:
        return True, find_faults(case, reference)
    faults, words = [], " ".join(words.split())
    said = re.search(r"(\S+) cannot be written: No space left on device; it needs (\d+) bytes; free some space", words)
    if code != 2 or not said or not said[1].startswith(str(case.output)):
        faults.append(f"exit status {code}: {words[-300:]}")
    else:
        messages.add(re.sub(r"\S+/", "", said[0]))
    store = LocalStore(case.output)
    for shard in list_shards(store):
        try:
            with store.open_file(name_shard(shard)) as stream:
                read_shard(stream, name_shard(shard))
        except CorpusError as error:
            faults.append(f"a partial final file: {error}")
    if drafts := list(case.output.glob(".*")):
        faults.append(f"{len(drafts)} drafts are left")
    _mount("-o", "remount,size=16m", str(case.output))
    if case.start("--workers", "1").wait() != 0:
        faults.append("with room again, the run does not go on")
    return False, faults + find_faults(case, reference)


def _mount(*words: str) -> None:
    subprocess.run(["/usr/bin/mount", *words], check=True)
