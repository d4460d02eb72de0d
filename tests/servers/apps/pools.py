"""Work in processes: `pools.py KIND COUNT`; prints the sum of the results."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import sys


def work(number: int) -> int:
    """Be one piece of work."""
    return price(number)


def price(number: int) -> int:
    """Say what a number costs."""
    return 2 * number


def single(number: int) -> None:
    """Be the target of one process."""
    work(number)


def main(kind: str, count: int) -> int:
    """Do the work in processes of a kind; return what they made."""
    name, _, method = kind.partition("-")
    context = multiprocessing.get_context(method)
    before = work(1)  # in the parent: its counts are not the children's
    if name == "pool":
        with context.Pool(2) as pool:
            found = sum(pool.map(work, range(count), chunksize=1))
            pool.close()
            pool.join()
    elif name == "recycled":
        with context.Pool(2, maxtasksperchild=1) as pool:
            found = sum(pool.map(work, range(count), chunksize=1))
            pool.close()
            pool.join()
    elif name == "executor":
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
            found = sum(executor.map(work, range(count)))
    else:
        found = 0
        for number in range(count):
            process = context.Process(target=single, args=(number,))
            process.start()
            process.join()
            assert process.exitcode == 0
            found += 2 * number
    return found + work(1) - before


if __name__ == "__main__":
    if sys.argv[3:]:
        multiprocessing.set_forkserver_preload(sys.argv[3:])
    print(main(sys.argv[1], int(sys.argv[2])))
