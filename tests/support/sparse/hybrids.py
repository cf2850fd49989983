"""Models whose layers keep a state instead of, or beside, a cache."""

from tests.support.sparse.pieces import Sketch, attention, decoder, dense, experts, mamba, mamba2, state_space


def mamba_1() -> Sketch:
    """Mamba 2.8B: nothing but state spaces."""
    made = decoder("mamba", layers=64, width=2560, vocabulary=50280, inner=0, output=None)
    made.metadata |= state_space(inner=5120, state=16, rank=160)
    for p in map("blk.{}.".format, range(64)):
        mamba(made, p, inner=5120, state=16, rank=160)
    return made


def jamba() -> Sketch:
    """Jamba Reasoning 3B: 2 of 28 layers attend."""
    attending = {13, 27}
    kv_heads = [1 if index in attending else 0 for index in range(28)]
    made = decoder("jamba", layers=28, width=2560, vocabulary=65536, inner=8192, heads=20, kv_heads=kv_heads, head=128)
    made.metadata |= state_space(inner=5120, state=64, rank=160)
    for index in range(28):
        p = f"blk.{index}."
        if index in attending:
            attention(made, p, heads=20, kv_heads=1, head=128)
        else:
            mamba(made, p, inner=5120, state=64, rank=160, norms=True)
        dense(made, p, 8192)
    return made


def falcon_h1() -> Sketch:
    """Falcon H1 7B: attention and a state space side by side in every layer."""
    made = decoder("falcon-h1", layers=44, width=3072, vocabulary=130048, inner=12288, heads=12, kv_heads=2, head=128)
    made.metadata |= state_space(inner=3072, state=256, rank=24, groups=1)
    for p in map("blk.{}.".format, range(44)):
        attention(made, p, heads=12, kv_heads=2, head=128)
        mamba2(made, p, inner=3072, state=256, heads=24, groups=1, normed=False)
        dense(made, p, 12288, norm=None)
        # Without the suffix that others have.
        made.add(f"{p}ffn_norm", 3072, kind="f32")
    return made


def nemotron_h() -> Sketch:
    """Nemotron Nano 9B v2: layers are state spaces, attention or networks, never two of them."""
    pattern = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"
    made = decoder("nemotron_h", layers=56, width=4480, vocabulary=131072, inner=0, heads=40, head=128)
    made.metadata |= state_space(inner=10240, state=128, rank=128, groups=8)
    made.metadata |= {
        "attention.head_count_kv": [8 if kind == "*" else 0 for kind in pattern],
        "feed_forward_length": [15680 if kind == "-" else 0 for kind in pattern],
        "attention.layer_norm_epsilon": 1e-5,
    }
    for index, kind in enumerate(pattern):
        p = f"blk.{index}."
        if kind == "M":
            mamba2(made, p, inner=10240, state=128, heads=128, groups=8)
        elif kind == "*":
            attention(made, p, heads=40, kv_heads=8, head=128)
        else:
            dense(made, p, 15680, norm="attn_norm", gate=False)
    return made


def granitehybrid() -> Sketch:
    """Granite 4.0 H Tiny: 4 of 40 layers attend, experts in all."""
    attending = {5, 15, 25, 35}
    kv_heads = [4 if index in attending else 0 for index in range(40)]
    made = decoder(
        "granitehybrid", layers=40, width=1536, vocabulary=100352, inner=512, heads=12, kv_heads=kv_heads, output=None
    )
    made.metadata |= state_space(inner=3072, state=128, rank=48, groups=1)
    made.metadata |= {"expert_count": 64, "expert_used_count": 6, "expert_shared_feed_forward_length": 1024}
    made.metadata["rope.dimension_count"] = 128
    for index in range(40):
        p = f"blk.{index}."
        if index in attending:
            attention(made, p, heads=12, kv_heads=4, head=128)
        else:
            mamba2(made, p, inner=3072, state=128, heads=48, groups=1)
        experts(made, p, count=64, inner=512, shared=1024)
    return made


def lfm2() -> Sketch:
    """LFM2 1.2B: short convolutions, 6 of 16 layers attend."""
    attending = {2, 5, 8, 10, 12, 14}
    kv_heads = [8 if index in attending else 0 for index in range(16)]
    made = decoder(
        "lfm2", layers=16, width=2048, vocabulary=65536, inner=8192, heads=32, kv_heads=kv_heads, output=None
    )
    made.metadata |= {"shortconv.l_cache": 3, "rope.dimension_count": 64}
    made.tensors["token_embd_norm.weight"] = made.tensors.pop("output_norm.weight")
    for index in range(16):
        p = f"blk.{index}."
        if index in attending:
            attention(made, p, heads=32, kv_heads=8, head=64, norms=True)
        else:
            made.norms(f"{p}attn_norm", width=2048)
            made.add(f"{p}shortconv.conv.weight", 3, 2048, kind="f32")
            made.add(f"{p}shortconv.in_proj.weight", 2048, 6144)
            made.add(f"{p}shortconv.out_proj.weight", 2048, 2048)
        dense(made, p, 8192)
    return made


def qwen35() -> Sketch:
    """Qwen3.5 9B: three recurrent layers for each one that attends."""
    made = decoder("qwen35", layers=32, width=4096, vocabulary=248320, inner=12288, heads=16, kv_heads=4, head=256)
    made.metadata |= state_space(inner=4096, state=128, rank=32, groups=16)
    made.metadata |= {"full_attention_interval": 4, "rope.dimension_count": 64}
    made.metadata["rope.dimension_sections"] = [11, 11, 10, 0]
    for index in range(32):
        p = f"blk.{index}."
        if (index + 1) % 4 == 0:
            attention(made, p, heads=16, kv_heads=4, head=256, wide=2, norms=True)
        else:
            _delta(made, p, keys=2048, values=4096, heads=32, apart=True)
        dense(made, p, 12288, norm="post_attention_norm")
    return made


def qwen3next() -> Sketch:
    """Qwen3 Coder Next 80B A3B: the same with 512 experts."""
    made = decoder("qwen3next", layers=48, width=2048, vocabulary=151936, inner=5120, heads=16, kv_heads=2, head=256)
    made.metadata |= state_space(inner=4096, state=128, rank=32, groups=16)
    made.metadata |= {"full_attention_interval": 4, "rope.dimension_count": 64, "expert_count": 512}
    made.metadata |= {"expert_used_count": 10, "expert_feed_forward_length": 512}
    made.metadata["expert_shared_feed_forward_length"] = 512
    for index in range(48):
        p = f"blk.{index}."
        if (index + 1) % 4 == 0:
            attention(made, p, heads=16, kv_heads=2, head=256, wide=2, norms=True)
        else:
            _delta(made, p, keys=2048, values=4096, heads=32, apart=False)
        experts(made, p, count=512, inner=512, shared=512, norm="post_attention_norm")
        made.add(f"{p}ffn_gate_inp_shexp.weight", 2048, kind="f32")
    return made


def _delta(made: Sketch, p: str, *, keys: int, values: int, heads: int, apart: bool) -> None:
    """A gated delta rule; ``apart``: the step's two factors have a matrix each."""
    width = made.metadata["embedding_length"]
    made.norms(f"{p}attn_norm", width=width)
    made.add(f"{p}attn_qkv.weight", width, 2 * keys + values)
    made.add(f"{p}attn_gate.weight", width, values)
    made.add(f"{p}ssm_conv1d.weight", 4, 2 * keys + values, kind="f32")
    made.add(f"{p}ssm_dt.bias", heads, kind="f32")
    made.add(f"{p}ssm_a", heads, kind="f32")
    if apart:
        made.add(f"{p}ssm_beta.weight", width, heads, kind="f32")
        made.add(f"{p}ssm_alpha.weight", width, heads, kind="f32")
    else:
        made.add(f"{p}ssm_ba.weight", width, 2 * heads, kind="f32")
    made.norms(f"{p}ssm_norm", width=values // heads)
    made.add(f"{p}ssm_out.weight", values, width)
