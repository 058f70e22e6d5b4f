"""The emulated device enforces the rules of a GPU and logs host synchronisations.

Tests of a process that has two such devices from its beginning: ``test_emulated_device`` starts it.
"""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from emulated_device import LOG, DeviceError


def test_pytorch_finds_the_devices_and_tensors_say_where_they_are():
    assert torch.accelerator.current_accelerator() == torch.device("cuda")
    assert torch.accelerator.device_count() == torch.cuda.device_count() == 2
    assert torch.accelerator.is_available()
    assert torch.cuda.is_available()
    for made in (
        torch.ones(3, device="cuda"),
        torch.arange(3, device="cuda:0"),
        torch.tensor([1.0], device="cuda"),
        torch.ones(3).to("cuda"),
        torch.rand(3, device="cuda") + 1,
        torch.fft.fftfreq(4, device="cuda"),
    ):
        assert made.device == torch.device("cuda", 0)
    assert torch.ones(2, device="cuda:1").device.index == 1
    assert torch.cuda.mem_get_info()[0] < torch.get_device_module("cuda").get_device_properties(0).total_memory
    volume = torch.ones(2, 3, device="cuda").requires_grad_()
    (volume[0] ** 3).sum().backward()
    assert volume.grad.device.type == "cuda"
    assert volume.grad.cpu().tolist() == [[3, 3, 3], [0, 0, 0]]


def test_devices_do_not_mix_and_have_no_numpy():
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    for mixed in (
        lambda: there + here,
        lambda: there.add_(here),
        lambda: here.add_(there),
        lambda: torch.cat([there, here]),
        lambda: there @ here,
        lambda: there + torch.ones(3, device="cuda:1"),
        lambda: there.sum() + here,
        lambda: torch.ones(()).add_(there.sum()),
        lambda: torch.mul(here, 2, out=there),
    ):
        with pytest.raises((DeviceError, RuntimeError)):
            mixed()
    assert (there + torch.tensor(2.0)).cpu().tolist() == [3, 3, 3], (
        "a number of the processor is an argument of the kernel"
    )
    for read in (there.numpy, lambda: np.asarray(there)):
        with pytest.raises(TypeError, match="numpy"):
            read()
    with pytest.raises((DeviceError, RuntimeError)):
        torch.empty(3, device="cuda").pin_memory()


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (lambda there: there.sum().item(), "synchronisation"),
        (lambda there: float(there[0]), "synchronisation"),
        (lambda there: bool((there > 0).all()), "synchronisation"),
        (lambda there: there.cpu(), "synchronisation"),
        (lambda there: there.tolist(), "synchronisation"),
        (lambda there: there.nonzero(), "synchronisation"),
        (lambda there: there[there > 1], "synchronisation"),
        (lambda there: torch.linalg.svd(there[None]), "synchronisation"),
        (lambda there: torch.accelerator.synchronize(), "synchronisation"),
        (lambda there: torch.accelerator.current_stream().synchronize(), "synchronisation"),
        (lambda there: there.copy_(torch.ones(3).pin_memory()), "synchronisation"),
        (lambda there: there[torch.tensor([0, 1])], "synchronisation"),
        (lambda there: torch.ones(3).to("cuda"), "upload"),
        (lambda there: torch.ones(3).to("cuda", non_blocking=True), "upload"),
        (lambda there: torch.tensor(2.0, device="cuda"), "upload"),
        (lambda there: there[[0, 1]], "upload"),
        (lambda there: there.new_tensor([1.0]), "upload"),
        (lambda there: there.copy_(torch.ones(3).pin_memory(), non_blocking=True), "pinned copy"),
        (lambda there: there.to("cpu", non_blocking=True), "pinned copy"),
        (lambda there: (there * 2 + 1).clamp_(min=0).sum(), None),
        (lambda there: there.masked_fill_(there > 1, 0), None),
        (lambda there: there.__setitem__(there > 1, 0.0), None),
        (lambda there: there.__setitem__(slice(0, 2), 0.0), None),
        (lambda there: torch.where(there > 1, there, 0.0), None),
        (lambda there: there[:2].double(), None),
    ],
)
def test_what_makes_the_host_wait_is_noted(action, kind):
    there = torch.ones(3, device="cuda")
    LOG.clear()
    action(there)
    kinds = {note.kind for note in LOG.notes}
    assert kinds == ({kind} if kind else set()), LOG.notes


def test_a_note_names_the_lines_of_the_package_that_ask():
    asks = compile("def ask(there):\n    return there.sum().item()", "/any/bluesky_multislice/solvers/asks.py", "exec")
    program = {}
    exec(asks, program)
    LOG.clear()
    program["ask"](torch.ones(3, device="cuda"))
    assert [note.where for note in LOG.notes] == ["solvers/asks.py:2"]


def test_a_copy_on_another_stream_is_there_only_for_those_that_wait():
    pinned, there, stream = torch.arange(4.0).pin_memory(), torch.empty(4, device="cuda"), torch.Stream(device="cuda")
    with stream:
        there.copy_(pinned, non_blocking=True)
    assert there.isnan().all(), "a kernel on another stream does not wait"
    torch.accelerator.current_stream().wait_stream(stream)
    assert there.cpu().tolist() == [0, 1, 2, 3]

    event = torch.cuda.Event()
    with torch.cuda.stream(torch.cuda.Stream()):
        there.copy_(pinned, non_blocking=True)
        event.record()
    event.wait()
    assert (there + 1).cpu().tolist() == [1, 2, 3, 4]
    same = torch.empty(4, device="cuda").copy_(pinned, non_blocking=True)
    assert (same + 1).cpu().tolist() == [1, 2, 3, 4], "kernels of the same stream come behind the copy"


def test_pinned_memory_that_changes_before_its_copy_is_done_is_an_error():
    pinned, stream = torch.arange(4.0).pin_memory(), torch.Stream(device="cuda")
    with stream:
        torch.empty(4, device="cuda").copy_(pinned, non_blocking=True)
        event = stream.record_event()
    pinned[0] = 7
    torch.accelerator.synchronize()
    assert LOG.count("error") == 1
    with stream:
        torch.empty(4, device="cuda").copy_(pinned, non_blocking=True)
        event = stream.record_event()
    event.synchronize()
    pinned[0] = 8
    torch.accelerator.synchronize()
    assert LOG.count("error") == 1, "behind the event it may change"


def test_what_is_copied_to_the_host_beside_it_is_there_when_it_has_waited():
    there, pinned = torch.arange(4.0, device="cuda"), torch.empty(4, pin_memory=True)
    pinned.copy_(there, non_blocking=True)
    assert pinned.isnan().all()
    torch.accelerator.current_stream().synchronize()
    assert pinned.tolist() == [0, 1, 2, 3]


def test_operators_and_bytes_are_counted_and_views_are_not():
    wave = torch.ones(4, 8, 8, dtype=torch.complex64, device="cuda")
    LOG.clear()
    assert wave[1:, ::2].mT.real.shape == (3, 8, 4)
    assert not LOG.operators
    torch.fft.fft2(wave).mul_(wave[:1].expand(4, 8, 8))
    assert dict(LOG.operators) == {"_fft_c2c": 1, "mul_": 1}
    assert LOG.bytes["_fft_c2c"] == 2 * 4 * 64 * 8
    assert LOG.bytes["mul_"] == 2 * 4 * 64 * 8 + 64 * 8, "what is repeated is read once"


def test_memory_of_tensors_is_counted_until_nobody_holds_it():
    before = torch.cuda.memory_allocated()
    volume = torch.ones(1000, device="cuda")
    part = volume[10:]
    del volume
    assert torch.cuda.memory_allocated() - before == 4000
    del part
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() >= before + 4000


def test_collectives_follow_the_rules_of_nccl():
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    there = torch.ones(4, 4, device="cuda")
    dist.all_reduce(there)
    dist.all_to_all_single(torch.empty_like(there), there)
    assert LOG.count("collective") == 2
    assert LOG.count("synchronisation", "upload") == 0
    for broken, why in (
        (lambda: dist.all_reduce(torch.ones(3)), "processor"),
        (lambda: dist.all_reduce(there.mT), "contiguous"),
        (lambda: dist.group.WORLD.alltoall_base(there + 0j, there + 0j, [], []), "complex"),
    ):
        with pytest.raises(DeviceError, match=why):
            broken()
    dist.all_reduce(torch.ones(3), group=dist.new_group(backend="gloo"))
