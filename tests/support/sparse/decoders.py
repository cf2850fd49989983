"""Models that attend in every layer: dense ones, with sliding windows, mixtures of experts, latent attention."""

from tests.support.sparse.pieces import Sketch, attention, decoder, dense, experts


def llama() -> Sketch:
    """Llama 3.1 8B."""
    made = decoder("llama", layers=32, width=4096, vocabulary=128256, inner=14336, heads=32, kv_heads=8, head=128)
    for p in map("blk.{}.".format, range(32)):
        attention(made, p, heads=32, kv_heads=8, head=128)
        dense(made, p, 14336)
    return made


def phi3() -> Sketch:
    """Phi-3 mini: one matrix for queries, keys and values, one for gate and input."""
    made = decoder("phi3", layers=32, width=3072, vocabulary=32064, inner=8192, heads=32, kv_heads=32, head=96)
    made.metadata["attention.sliding_window"] = 0
    for p in map("blk.{}.".format, range(32)):
        made.norms(f"{p}attn_norm", f"{p}ffn_norm", width=3072)
        made.add(f"{p}attn_qkv.weight", 3072, 9216)
        made.add(f"{p}attn_output.weight", 3072, 3072)
        made.add(f"{p}ffn_up.weight", 3072, 16384)
        made.add(f"{p}ffn_down.weight", 8192, 3072, kind="q6_k")
    return made


def gemma2() -> Sketch:
    """Gemma 2 9B: every other layer looks back over a window."""
    return _gemma("gemma2", layers=42, width=3584, vocabulary=256000, inner=14336, heads=16, kv_heads=8, window=4096)


def gemma3() -> Sketch:
    """Gemma 3 12B: five of six layers look back over a window."""
    return _gemma("gemma3", layers=48, width=3840, vocabulary=262208, inner=15360, heads=16, kv_heads=8, window=1024)


def _gemma(
    architecture: str, *, layers: int, width: int, vocabulary: int, inner: int, heads: int, kv_heads: int, window: int
) -> Sketch:
    made = decoder(
        architecture,
        layers=layers,
        width=width,
        vocabulary=vocabulary,
        inner=inner,
        heads=heads,
        kv_heads=kv_heads,
        head=256,
        output=None,
    )
    made.metadata["attention.sliding_window"] = window
    for p in map("blk.{}.".format, range(layers)):
        attention(made, p, heads=heads, kv_heads=kv_heads, head=256, norms=architecture != "gemma2")
        dense(made, p, inner)
        made.norms(f"{p}post_attention_norm", f"{p}post_ffw_norm", width=width)
    return made


def cohere2() -> Sketch:
    """Command R7B: windows, and attention beside the feed-forward network."""
    made = decoder(
        "cohere2", layers=32, width=4096, vocabulary=256000, inner=14336, heads=32, kv_heads=8, head=128, output=None
    )
    made.metadata |= {"attention.sliding_window": 4096, "logit_scale": 0.25, "attention.layer_norm_epsilon": 1e-5}
    del made.metadata["attention.layer_norm_rms_epsilon"]
    for p in map("blk.{}.".format, range(32)):
        attention(made, p, heads=32, kv_heads=8, head=128)
        dense(made, p, 14336, norm=None)
    return made


def qwen3moe() -> Sketch:
    """Qwen3 30B A3B: 128 experts."""
    made = decoder("qwen3moe", layers=48, width=2048, vocabulary=151936, inner=6144, heads=32, kv_heads=4, head=128)
    made.metadata |= {"expert_count": 128, "expert_used_count": 8, "expert_feed_forward_length": 768}
    for p in map("blk.{}.".format, range(48)):
        attention(made, p, heads=32, kv_heads=4, head=128, norms=True)
        experts(made, p, count=128, inner=768)
    return made


def mixtral() -> Sketch:
    """Mixtral 8x7B: experts under the name of llama."""
    made = decoder("llama", layers=32, width=4096, vocabulary=32000, inner=14336, heads=32, kv_heads=8, head=128)
    made.metadata |= {"expert_count": 8, "expert_used_count": 2}
    for p in map("blk.{}.".format, range(32)):
        attention(made, p, heads=32, kv_heads=8, head=128)
        experts(made, p, count=8, inner=14336)
    return made


def glm4moe() -> Sketch:
    """GLM-4.5 Air: a dense layer first, a draft's layer last."""
    made = decoder("glm4moe", layers=47, width=4096, vocabulary=151552, inner=10944, heads=96, kv_heads=8, head=128)
    made.metadata |= {
        "expert_count": 128,
        "expert_used_count": 8,
        "expert_shared_count": 1,
        "expert_feed_forward_length": 1408,
        "leading_dense_block_count": 1,
        "nextn_predict_layers": 1,
        "rope.dimension_count": 64,
    }
    for index in range(47):
        p = f"blk.{index}."
        attention(made, p, heads=96, kv_heads=8, head=128)
        made.norms(f"{p}post_attention_norm", width=4096)
        if index == 0:
            dense(made, p, 10944, norm=None)
            continue
        experts(made, p, count=128, inner=1408, shared=1408, norm=None)
        made.add(f"{p}exp_probs_b.bias", 128, kind="f32")
    p = "blk.46.nextn."
    made.add(f"{p}eh_proj.weight", 8192, 4096)
    made.norms(f"{p}enorm", f"{p}hnorm", f"{p}shared_head_norm", width=4096)
    return made


def gpt_oss() -> Sketch:
    """gpt-oss 20B: windows and experts."""
    made = decoder(
        "gpt-oss",
        layers=24,
        width=2880,
        vocabulary=201088,
        inner=2880,
        heads=64,
        kv_heads=8,
        head=64,
        embeddings="q8_0",
        output="q8_0",
    )
    made.metadata |= {"attention.sliding_window": 128, "expert_count": 32}
    made.metadata |= {"expert_used_count": 4, "expert_feed_forward_length": 2880}
    for p in map("blk.{}.".format, range(24)):
        made.norms(f"{p}attn_norm", f"{p}post_attention_norm", width=2880)
        made.norms(f"{p}attn_sinks", width=64)
        for name, rows, columns in (
            ("attn_q", 2880, 4096),
            ("attn_k", 2880, 512),
            ("attn_v", 2880, 512),
            ("attn_output", 4096, 2880),
        ):
            made.add(f"{p}{name}.weight", rows, columns, kind="q8_0")
            made.add(f"{p}{name}.bias", columns, kind="f32")
        experts(made, p, count=32, inner=2880, kind="mxfp4", norm=None)
        made.add(f"{p}ffn_gate_inp.bias", 32, kind="f32")
        for name in ("gate", "up", "down"):
            made.add(f"{p}ffn_{name}_exps.bias", 2880, 32, kind="f32")
    return made


def llama4() -> Sketch:
    """Llama 4 Scout: chunks of 8192 tokens, one expert and a shared one per token."""
    made = decoder("llama4", layers=48, width=5120, vocabulary=202048, inner=16384, heads=40, kv_heads=8, head=128)
    made.metadata |= {"expert_count": 16, "expert_used_count": 1, "expert_feed_forward_length": 8192}
    made.metadata |= {"interleave_moe_layer_step": 1, "attention.chunk_size": 8192}
    for p in map("blk.{}.".format, range(48)):
        attention(made, p, heads=40, kv_heads=8, head=128)
        experts(made, p, count=16, inner=8192, shared=8192)
    return made


def deepseek2() -> Sketch:
    """DeepSeek V2 Lite: latent attention, a leading dense layer, shared experts."""
    made = _deepseek2()
    made.metadata |= {"attention.head_count_kv": 1, "attention.key_length": 576, "attention.value_length": 512}
    made.metadata |= {"attention.key_length_mla": 192, "attention.value_length_mla": 128}
    for p in map("blk.{}.".format, range(27)):
        made.add(f"{p}attn_k_b.weight", 128, 512, 16, kind="q8_0")
        made.add(f"{p}attn_v_b.weight", 512, 128, 16, kind="q8_0")
    return made


def deepseek2_heads() -> Sketch:
    """The same in a file from before latent attention was kept compressed: keys and values of all heads."""
    made = _deepseek2()
    made.metadata |= {"attention.head_count_kv": 16, "attention.key_length": 192, "attention.value_length": 128}
    for p in map("blk.{}.".format, range(27)):
        made.add(f"{p}attn_kv_b.weight", 512, 16 * 256)
    return made


def _deepseek2() -> Sketch:
    made = decoder("deepseek2", layers=27, width=2048, vocabulary=102400, inner=10944, heads=16)
    made.metadata |= {
        "leading_dense_block_count": 1,
        "rope.dimension_count": 64,
        "attention.kv_lora_rank": 512,
        "expert_count": 64,
        "expert_used_count": 6,
        "expert_shared_count": 2,
        "expert_feed_forward_length": 1408,
    }
    for index in range(27):
        p = f"blk.{index}."
        made.norms(f"{p}attn_norm", width=2048)
        made.norms(f"{p}attn_kv_a_norm", width=512)
        made.add(f"{p}attn_q.weight", 2048, 16 * 192)
        made.add(f"{p}attn_kv_a_mqa.weight", 2048, 576)
        made.add(f"{p}attn_output.weight", 16 * 128, 2048)
        if index == 0:
            dense(made, p, 10944)
        else:
            experts(made, p, count=64, inner=1408, shared=2816, kind="q8_0")
    return made
