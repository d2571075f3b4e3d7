"""The scale of a device: it follows what answers see, neither in leaps nor into a corner."""

from __future__ import annotations

import pytest

from lightship.gateway.dispatch.capacity import Device


def answers(device: Device, num: int, *, kept: bool, was_full: bool = True, started_s: float, now_s: float) -> None:
    for _ in range(num):
        device.note_answer(kept_promise=kept, was_full=was_full, attainment=0.95, started_s=started_s, now_s=now_s)


def test_device_burst_of_broken_answers_eases_once() -> None:
    """Once each two of a burst that began together took a tenth away: sixty of them all but closed the device."""
    device = Device()
    answers(device, 60, kept=False, started_s=1.0, now_s=2.0)
    assert device.scale == pytest.approx(0.9)
    answers(device, 60, kept=False, started_s=2.5, now_s=3.0)
    assert device.scale == pytest.approx(0.81)


def test_device_full_and_in_time_gets_more() -> None:
    device = Device()
    answers(device, 32, kept=True, started_s=1.0, now_s=2.0)
    assert device.scale == pytest.approx(1.03)


def test_device_idle_learns_nothing() -> None:
    device = Device()
    answers(device, 320, kept=True, was_full=False, started_s=1.0, now_s=2.0)
    assert device.scale == 1.0


def test_device_attainment_is_what_the_promise_allows() -> None:
    device = Device()
    for number in range(320):  # three in a hundred are late, five may be
        kept = number % 33 != 0
        device.note_answer(kept_promise=kept, was_full=True, attainment=0.95, started_s=number, now_s=number + 1)
    assert device.scale == pytest.approx(1.3)


def test_device_never_closes() -> None:
    device = Device()
    for number in range(200):
        answers(device, 5, kept=False, started_s=10.0 * number, now_s=10.0 * number + 5)
    assert device.scale == 1 / 16


def test_device_room_is_shared_and_given_back() -> None:
    device = Device(part=0.5)
    device.take(0.3, num_tokens=10)
    assert device.load == pytest.approx(0.6)
    assert device.has_room(0.2)
    assert not device.has_room(0.25)
    device.give_back(0.3)
    assert device.load == 0
    assert device.has_room(0.9)  # an idle device takes any
