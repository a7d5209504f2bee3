import pytest
import torch
import torch.nn.functional as F

from autoencoder.transformer import (
    Attention,
    KeyValueCache,
    Linear,
    RMSNorm,
    Transformer,
    TransformerBlock,
    rotary_embedding,
)

POSITIONS = torch.arange(6)


@pytest.fixture
def stack(activate):
    return activate(Transformer(16, num_layers=2, num_heads=2, time_conditioned=True))


@pytest.mark.parametrize("time_conditioned", [False, True])
def test_fresh_stack_is_the_identity(time_conditioned):
    fresh = Transformer(16, num_layers=2, num_heads=2, time_conditioned=time_conditioned)
    x = torch.randn(3, 6, 16)
    assert torch.equal(fresh(x, POSITIONS, time_embedding=torch.randn(3, 16)), x)


def test_attention_equals_a_plain_implementation(activate):
    attention = activate(Attention(16, num_heads=2))
    x, positions = torch.randn(3, 6, 16), torch.tensor([0, 1, 2, 0, 1, 7])
    mask = torch.rand(3, 1, 6, 6) < 0.6
    mask |= torch.eye(6, dtype=torch.bool)

    query, key, value = attention.qkv(x).unflatten(2, (3, 2, 8)).unbind(2)  # each (B, T, A, 8)
    angles = positions[:, None, None] * 10_000.0 ** -(torch.arange(4) / 4)
    turn = torch.polar(torch.ones_like(angles), angles)

    def rotate(part, norm):
        part = part / (part.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
        turned = torch.complex(part[..., :4], part[..., 4:]) * turn
        return torch.cat((turned.real, turned.imag), dim=-1)

    query, key = rotate(query, attention.query_norm), rotate(key, attention.key_norm)
    scores = torch.einsum("bqac,bkac->baqk", query, key) / 8**0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    expected = attention.out(torch.einsum("baqk,bkac->bqac", weights, value).flatten(2))

    actual = attention(x, rotary_embedding(positions, 8), mask)
    assert torch.allclose(actual, expected, atol=1e-5)


def test_rotary_attention_depends_on_differences_of_positions_only(stack):
    x = torch.randn(3, 6, 16)
    output = stack(x, POSITIONS)
    assert torch.allclose(stack(x, POSITIONS + 100), output, atol=1e-4)
    assert not torch.allclose(stack(x, 2 * POSITIONS), output, atol=1e-2)


def test_masked_keys_have_no_influence(stack):
    x = torch.randn(3, 6, 16)
    visible = torch.tensor([True, True, False, True, False, True])
    changed = torch.where(visible[:, None], x, 100 * torch.randn_like(x))
    output = stack(x, POSITIONS, visible[None, None, None])[:, visible]
    assert torch.equal(stack(changed, POSITIONS, visible[None, None, None])[:, visible], output)
    assert not torch.allclose(stack(changed, POSITIONS)[:, visible], output, atol=1e-2)


def test_time_conditioning_is_zero_at_start():
    block = Transformer(16, num_layers=1, num_heads=2, time_conditioned=True).blocks[0]
    for layer in (block.attention.out, block.feed_forward.out):
        torch.nn.init.normal_(layer.weight)
    x, rotary = torch.randn(3, 6, 16), rotary_embedding(POSITIONS, 8)
    time_embedding = torch.randn(3, 16)
    without = block(x, rotary)
    assert torch.equal(block(x, rotary, time_embedding=time_embedding), without)

    torch.nn.init.normal_(block.time_projection.weight)
    assert not torch.allclose(block(x, rotary, time_embedding=time_embedding), without, atol=1e-2)


def test_rows_of_a_batch_do_not_touch_each_other(stack):
    x, time_embedding = torch.randn(3, 6, 16), torch.randn(3, 16)
    together = stack(x, POSITIONS, time_embedding=time_embedding)
    for row in range(3):
        alone = stack(x[row : row + 1], POSITIONS, time_embedding=time_embedding[row : row + 1])
        assert torch.allclose(alone[0], together[row], atol=1e-5)


def test_norm_keeps_the_type_of_its_input():
    norm = RMSNorm(16)
    torch.nn.init.normal_(norm.weight)
    x = 3 * torch.randn(4, 16)
    expected = x / x.square().mean(-1, keepdim=True).sqrt() * norm.weight
    assert torch.allclose(norm(x), expected, atol=1e-5)
    assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_attention_runs_in_the_type_of_autocast(stack):
    """Autocast once met float32 queries and bfloat16 values, which attention refuses."""
    x = torch.randn(3, 6, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = stack(x, POSITIONS)
    assert F.cosine_similarity(output.flatten(), stack(x, POSITIONS).flatten(), dim=0) > 0.99


def test_width_that_does_not_split_into_heads_is_refused():
    with pytest.raises(ValueError, match="multiple of 2 \\* num_heads, got 18 and 2"):
        Attention(18, num_heads=2)


def test_a_cache_continues_what_came_before(stack):
    """Chunks through a cache give what one pass under a causal mask gives."""
    transformer = stack
    x, positions = torch.randn(3, 9, 16), torch.arange(-2, 7)
    causal = positions[:, None] >= positions
    expected = transformer(x, positions, causal)
    cache, parts = KeyValueCache(len(transformer.blocks), 9), []
    for start, end in ((0, 4), (4, 5), (5, 9)):
        chunk = slice(start, end)
        parts.append(transformer(x[:, chunk], positions[chunk], causal[chunk, :end], cache=cache))
        assert len(cache) == end
    assert torch.allclose(torch.cat(parts, dim=1), expected, atol=1e-5)


def test_a_cache_that_does_not_grow_is_only_read(stack):
    transformer = stack
    x, positions = torch.randn(3, 6, 16), torch.arange(6)
    cache = KeyValueCache(len(transformer.blocks), 6)
    transformer(x[:, :4], positions[:4], None, cache=cache)
    cache.is_growing = False
    first = transformer(x[:, 4:], positions[4:], None, cache=cache)
    assert len(cache) == 4
    assert torch.equal(transformer(x[:, 4:], positions[4:], None, cache=cache), first)


def test_a_cache_forgets_rows(stack):
    transformer = stack
    x, positions = torch.randn(4, 6, 16), torch.arange(6)
    cache = KeyValueCache(len(transformer.blocks), 6)
    transformer(x[:, :4], positions[:4], None, cache=cache)
    rows = torch.tensor([1, 3])
    cache.keep_rows(rows)
    rest = transformer(x[rows, 4:], positions[4:], None, cache=cache)
    alone = KeyValueCache(len(transformer.blocks), 6)
    transformer(x[rows, :4], positions[:4], None, cache=alone)
    expected = transformer(x[rows, 4:], positions[4:], None, cache=alone)
    assert torch.allclose(rest, expected, atol=1e-6)


def test_a_kept_weight_changes_nothing_but_the_time(activate):
    block = activate(TransformerBlock(16, 2, time_conditioned=True))
    x, rotary, time = (
        torch.randn(3, 5, 16),
        rotary_embedding(torch.arange(5), 8),
        torch.randn(3, 16),
    )
    names = list(block.state_dict())

    def outputs():
        with torch.no_grad():
            yield block(x, rotary, None, time)
            for dtype in (torch.bfloat16, torch.float16):
                with torch.autocast("cpu", dtype):
                    yield block(x, rotary, None, time)

    before = list(outputs())
    for module in block.modules():
        if isinstance(module, Linear):
            module.keep_cast(torch.bfloat16)
    assert block.attention.qkv.cast_weight.dtype == torch.bfloat16
    assert all(map(torch.equal, outputs(), before))
    assert list(block.state_dict()) == names
