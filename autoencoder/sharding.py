"""Shard the weights of a module in training over processes (FSDP2), and see them whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from autoencoder.transformer import TransformerBlock


def shard(module: nn.Module, mesh: DeviceMesh, entrances: tuple[str, ...]) -> None:
    """Split the trainable weights, their gradients and what an optimizer keeps of them.

    The transformer blocks with trainable weights are gathered one at a time when they run, all
    other trainable weights together. Frozen networks stay whole in each process.

    Args:
        module: Module to shard in place.
        mesh: The processes, of one dimension.
        entrances: Methods of ``module`` that run it; outside of them weights are in parts.
    """
    frozen = {weight for weight in module.parameters() if not weight.requires_grad}
    for block in module.modules():
        is_trained = any(weight.requires_grad for weight in block.parameters())
        if isinstance(block, TransformerBlock) and is_trained:
            fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh, ignored_params=frozen)
    for name in entrances:
        register_fsdp_forward_method(module, name)


def is_sharded(module: nn.Module) -> bool:
    """Tell whether ``shard`` was applied."""
    return isinstance(module, FSDPModule)


@contextmanager
def whole_networks(module: nn.Module) -> Iterator[None]:
    """Put copies with whole weights in the place of the sharded networks of a training module.

    A process may run them as it likes, as nothing has to be gathered for it. All processes must
    enter. Nothing happens to a module that is not sharded.
    """
    sharded: dict[str, Any] = {  # models of diffusers
        name: network
        for name, network in module.named_children()
        if any(isinstance(part, FSDPModule) for part in network.modules())
    }
    for name, network in sharded.items():
        state = get_model_state_dict(network, options=StateDictOptions(full_state_dict=True))
        # diffusers counts arguments that were given by position among those to leave out.
        config = {k: v for k, v in network.config.items() if k != "_use_default_values"}
        whole = type(network).from_config(config)
        whole.load_state_dict(state)
        place = next(network.parameters()).device
        setattr(module, name, whole.to(place).train(network.training))
    try:
        yield
    finally:
        for name, network in sharded.items():
            setattr(module, name, network)
