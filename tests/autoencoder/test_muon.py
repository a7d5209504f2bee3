import copy
from functools import partial

import pytest
import torch
from lightning import Callback
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor
from torch.optim import AdamW

from autoencoder.muon import MuonWithAdamW, block_matrices
from autoencoder.newton_schulz import StackedMuon
from autoencoder.transformer import Transformer


class Network(nn.Module):
    """A stack of blocks between two projections, with an embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 16)
        self.transformer = Transformer(16, num_layers=2, num_heads=2, time_conditioned=True)
        self.out = nn.Linear(16, 3)

    def forward(self, ids):
        hidden = self.transformer(self.embedding(ids), torch.arange(4), None, torch.ones(2, 16))
        return self.out(hidden)


@pytest.fixture
def make_network(activate):
    def make():
        torch.manual_seed(0)
        return activate(Network())

    return make


def take_steps(network, optimizers, num_steps):
    for step in range(num_steps):
        ids = torch.randint(5, (2, 4), generator=torch.Generator().manual_seed(step))
        for optimizer in optimizers:
            optimizer.zero_grad()
        network(ids).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


def optimizer_of(network, **options):
    optimizer = MuonWithAdamW(network.parameters(), lr=1e-2, **options)
    optimizer.take_matrices(network)
    return optimizer


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_matrices_are_those_inside_of_blocks():
    network = Network()
    matrices = {id(weight) for weight in block_matrices(network)}
    names = {name for name, weight in network.named_parameters() if id(weight) in matrices}
    parts = ("attention.qkv", "attention.out", "feed_forward.gate_and_value", "feed_forward.out")
    assert names == {
        f"transformer.blocks.{number}.{part}.weight"
        for number in (0, 1)
        for part in (*parts, "time_projection")
    }


def test_steps_are_those_of_both_optimizers(make_network):
    network, expected = make_network(), make_network()
    options = {"lr": 1e-2, "weight_decay": 0.1}
    matrices = block_matrices(expected)
    taken = {id(weight) for weight in matrices}
    rest = [weight for weight in expected.parameters() if id(weight) not in taken]
    both = [
        StackedMuon(matrices, momentum=0.9, **options),
        AdamW(rest, betas=(0.9, 0.98), **options),
    ]
    take_steps(network, [optimizer_of(network, weight_decay=0.1, momentum=0.9)], 3)
    take_steps(expected, both, 3)
    assert same(network.state_dict(), expected.state_dict())


def test_the_matrices_move_otherwise_than_under_adamw_and_by_about_as_much(make_network):
    start = make_network().state_dict()
    moves = []
    for make in (optimizer_of, lambda network: AdamW(network.parameters(), lr=1e-2)):
        network = make_network()
        take_steps(network, [make(network)], 1)
        name = "transformer.blocks.0.attention.qkv.weight"
        moves.append((network.state_dict()[name] - start[name]).square().mean().sqrt())
    assert moves[0] != moves[1]
    assert 0.1 < moves[0] / moves[1] < 1  # AdamW's first step moves each weight by the whole rate


def test_a_saved_state_goes_on_as_if_nothing_had_happened(make_network):
    whole = make_network()
    take_steps(whole, [optimizer := optimizer_of(whole)], 2)
    resumed = make_network()
    resumed.load_state_dict(whole.state_dict())
    loaded = optimizer_of(resumed)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for network, each in ((whole, optimizer), (resumed, loaded)):
        take_steps(network, [each], 2)
    assert same(whole.state_dict(), resumed.state_dict())


def test_a_schedule_reaches_both_groups(make_network):
    network = make_network()
    optimizer = optimizer_of(network)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    take_steps(network, [optimizer], 1)
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [5e-3, 5e-3]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    after = {name: value.clone() for name, value in network.state_dict().items()}
    take_steps(network, [optimizer], 1)
    assert not same(before, after)
    assert same(after, network.state_dict())


def test_a_step_before_the_matrices_are_told_is_refused():
    network = Network()
    with pytest.raises(RuntimeError, match=r"take_matrices.* must be called before a step"):
        MuonWithAdamW(network.parameters()).step()
    with pytest.raises(ValueError, match="no matrices of transformer blocks; use AdamW"):
        MuonWithAdamW(network.out.parameters()).take_matrices(network)


def test_sharded_matrices_are_refused():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        network = Network()
        mesh = init_device_mesh("cpu", (1,))
        layer = network.transformer.blocks[0].attention.out
        layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh))
        optimizer = MuonWithAdamW(network.parameters())
        with pytest.raises(ValueError, match=r"needs whole matrices.* `--trainer.strategy ddp`"):
            optimizer.take_matrices(network)
    finally:
        distributed.destroy_process_group()


class SaveHalfway(Callback):
    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_both_stages_train_with_it_and_resume_bit_for_bit(
    stage, make_lit_autoencoder, make_lit_denoiser, make_texts, make_loader, make_trainer, tmp_path
):
    packing = {"document_ids": torch.zeros(8, 3, dtype=torch.long)}
    batch = make_texts() | (packing if stage == "autoencoder" else {})
    saved = tmp_path / "half.ckpt"

    def train(**options):
        torch.manual_seed(0)
        make = make_lit_autoencoder if stage == "autoencoder" else make_lit_denoiser
        module = make(optimizer=partial(MuonWithAdamW, lr=1e-2))
        start = {name: value.clone() for name, value in module.state_dict().items()}
        trainer = make_trainer(4, limit_val_batches=0, callbacks=[SaveHalfway(saved)])
        loaders = (make_loader(batch), make_loader(batch))
        torch.manual_seed(1)  # the seed of its steps
        trainer.fit(module, *loaders, **options)
        return start, module.state_dict()

    start, whole = train()
    assert not same(start, whole)
    assert same(train(ckpt_path=saved)[1], whole)
