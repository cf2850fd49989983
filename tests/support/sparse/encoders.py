"""Models that map a text to a vector in one pass."""

from tests.support.sparse.pieces import Sketch


def bert() -> Sketch:
    """BGE large."""
    made = _encoder("bert", layers=24, width=1024, heads=16, inner=4096, context=512)
    made.add("position_embd.weight", 1024, 512, kind="f32")
    for p in map("blk.{}.".format, range(24)):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            made.add(f"{p}{name}.weight", 1024, 1024, kind="f16")
            made.add(f"{p}{name}.bias", 1024, kind="f32")
        made.add(f"{p}ffn_up.bias", 4096, kind="f32")
        made.add(f"{p}ffn_down.bias", 1024, kind="f32")
    return made


def nomic_bert() -> Sketch:
    """Nomic Embed Text v1.5: one matrix for queries, keys and values, and a gate."""
    made = _encoder("nomic-bert", layers=12, width=768, heads=12, inner=3072, context=2048)
    made.metadata["rope.dimension_count"] = 64
    for p in map("blk.{}.".format, range(12)):
        made.add(f"{p}attn_qkv.weight", 768, 2304, kind="f16")
        made.add(f"{p}attn_output.weight", 768, 768, kind="f16")
        made.add(f"{p}ffn_gate.weight", 768, 3072, kind="f16")
    return made


def _encoder(architecture: str, *, layers: int, width: int, heads: int, inner: int, context: int) -> Sketch:
    made = Sketch(architecture)
    made.metadata = {
        "block_count": layers,
        "context_length": context,
        "embedding_length": width,
        "feed_forward_length": inner,
        "vocab_size": 30522,
        "pooling_type": 1,
        "attention.head_count": heads,
        "attention.causal": False,
        "attention.layer_norm_epsilon": 1e-12,
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.model": "no_vocab",
    }
    made.add("token_embd.weight", width, 30522, kind="f16")
    made.add("token_types.weight", width, 2, kind="f32")
    made.norms("token_embd_norm", width=width, bias=True)
    for p in map("blk.{}.".format, range(layers)):
        made.norms(f"{p}attn_output_norm", f"{p}layer_output_norm", width=width, bias=True)
        made.add(f"{p}ffn_up.weight", width, inner, kind="f16")
        made.add(f"{p}ffn_down.weight", inner, width, kind="f16")
    return made
