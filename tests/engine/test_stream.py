"""Readers in threads and tasks get every piece, once, in order."""

import asyncio
import threading

from quietdesk.engine.stream import Stream
from quietdesk.types import FinishReason, Usage


def write(stream: Stream, n: int) -> None:
    for i in range(n):
        stream.put(f"{i} ", 1)
    stream.end(FinishReason.STOP, Usage(completion_tokens=n))


def test_every_reader_gets_every_piece() -> None:
    stream = Stream(lambda: None)
    got: list[str] = []

    def read() -> None:
        got.append("".join(delta.text for delta in stream))

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    write(stream, 2000)
    for reader in readers:
        reader.join()
    assert set(got) == {"".join(f"{i} " for i in range(2000))}
    assert len(got) == 8


async def test_tasks_get_every_piece_from_another_thread() -> None:
    streams = [Stream(lambda: None) for _ in range(64)]

    async def read(stream: Stream) -> list[str]:
        return [delta.text async for delta in stream]

    writer = threading.Thread(target=lambda: [write(stream, 200) for stream in streams])
    tasks = [asyncio.create_task(read(stream)) for stream in streams]
    await asyncio.sleep(0)
    writer.start()
    got = await asyncio.gather(*tasks)
    writer.join()
    assert got == [[f"{i} " for i in range(200)]] * 64


def test_a_late_reader_starts_from_the_beginning() -> None:
    stream = Stream(lambda: None)
    write(stream, 3)
    assert [delta.text for delta in stream] == ["0 ", "1 ", "2 "]
    assert stream.text == "0 1 2 "


def test_the_end_is_told_once_and_only_the_first_counts() -> None:
    stream = Stream(lambda: None)
    told: list[int] = []
    stream.when_ended(lambda: told.append(1))
    stream.end(FinishReason.STOP, Usage())
    stream.end(FinishReason.CANCELLED, Usage())
    stream.when_ended(lambda: told.append(2))
    assert stream.finish_reason is FinishReason.STOP
    assert told == [1, 2]


def test_cancel_reaches_the_engine_only_while_it_goes_on() -> None:
    calls: list[int] = []
    stream = Stream(lambda: calls.append(1))
    stream.cancel()
    stream.end(FinishReason.CANCELLED, Usage())
    stream.cancel()
    assert calls == [1]


async def test_a_closed_loop_does_not_disturb_the_writer() -> None:
    stream = Stream(lambda: None)

    def read_in_a_loop_that_is_closed() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(stream.await_end())
        loop.run_until_complete(asyncio.sleep(0))
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()

    thread = threading.Thread(target=read_in_a_loop_that_is_closed)
    thread.start()
    thread.join()
    write(stream, 1)
    await stream.await_end()
    assert stream.text == "0 "
