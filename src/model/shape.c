#include "model/shape.h"

#include <string.h>
#include <strings.h>

#define LLAMA(layers, d, heads, kv, head, ff, vocab, theta, tied)                                                      \
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"num_hidden_layers\":" #layers                \
    ",\"hidden_size\":" #d ",\"num_attention_heads\":" #heads ",\"num_key_value_heads\":" #kv ",\"head_dim\":" #head   \
    ",\"intermediate_size\":" #ff ",\"vocab_size\":" #vocab ",\"rope_theta\":" #theta                                  \
    ",\"tie_word_embeddings\":" #tied ",\"max_position_embeddings\":131072,\"rms_norm_eps\":1e-05}"
#define QWEN3(layers, d, heads, kv, ff, tied)                                                                          \
    "{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\",\"num_hidden_layers\":" #layers                \
    ",\"hidden_size\":" #d ",\"num_attention_heads\":" #heads ",\"num_key_value_heads\":" #kv                          \
    ",\"head_dim\":128,\"intermediate_size\":" #ff ",\"vocab_size\":151936,\"rope_theta\":1000000.0,"                  \
    "\"tie_word_embeddings\":" #tied ",\"max_position_embeddings\":40960,\"rms_norm_eps\":1e-06}"
#define GPT_OSS(layers, experts)                                                                                       \
    "{\"architectures\":[\"GptOssForCausalLM\"],\"model_type\":\"gpt_oss\",\"num_hidden_layers\":" #layers             \
    ",\"hidden_size\":2880,\"num_attention_heads\":64,\"num_key_value_heads\":8,\"head_dim\":64,"                      \
    "\"intermediate_size\":2880,\"num_local_experts\":" #experts ",\"num_experts_per_tok\":4,\"sliding_window\":128,"  \
    "\"vocab_size\":201088,\"attention_bias\":true,\"tie_word_embeddings\":false,\"max_position_embeddings\":131072,"  \
    "\"rms_norm_eps\":1e-05,\"rope_theta\":150000.0,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":32.0,"         \
    "\"beta_fast\":32.0,\"beta_slow\":1.0,\"original_max_position_embeddings\":4096,\"truncate\":false}}"

static const struct {
    const char *name, *config;
} shapes[] = {
    {"smollm2-135m", LLAMA(30, 576, 9, 3, 64, 1536, 49152, 100000.0, true)},
    {"llama-3.2-1b", LLAMA(16, 2048, 32, 8, 64, 8192, 128256, 500000.0, true)},
    {"llama-3.2-3b", LLAMA(28, 3072, 24, 8, 128, 8192, 128256, 500000.0, true)},
    {"llama-3.1-8b", LLAMA(32, 4096, 32, 8, 128, 14336, 128256, 500000.0, false)},
    {"llama-3.3-70b", LLAMA(80, 8192, 64, 8, 128, 28672, 128256, 500000.0, false)},
    {"qwen3-0.6b", QWEN3(28, 1024, 16, 8, 3072, true)},
    {"qwen3-4b", QWEN3(36, 2560, 32, 8, 9728, true)},
    {"qwen3-8b", QWEN3(36, 4096, 32, 8, 12288, false)},
    {"qwen3-30b-a3b",
     "{\"architectures\":[\"Qwen3MoeForCausalLM\"],\"model_type\":\"qwen3_moe\",\"num_hidden_layers\":48,"
     "\"hidden_size\":2048,\"num_attention_heads\":32,\"num_key_value_heads\":4,\"head_dim\":128,"
     "\"intermediate_size\":6144,\"moe_intermediate_size\":768,\"num_experts\":128,\"num_experts_per_tok\":8,"
     "\"norm_topk_prob\":true,\"decoder_sparse_step\":1,\"mlp_only_layers\":[],\"vocab_size\":151936,"
     "\"rope_theta\":1000000.0,\"tie_word_embeddings\":false,\"max_position_embeddings\":40960,\"rms_norm_eps\":1e-"
     "06}"},
    {"mixtral-8x7b",
     "{\"architectures\":[\"MixtralForCausalLM\"],\"model_type\":\"mixtral\",\"num_hidden_layers\":32,"
     "\"hidden_size\":4096,\"num_attention_heads\":32,\"num_key_value_heads\":8,\"intermediate_size\":14336,"
     "\"num_local_experts\":8,\"num_experts_per_tok\":2,\"vocab_size\":32000,\"rope_theta\":1000000.0,"
     "\"tie_word_embeddings\":false,\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-05}"},
    {"gpt-oss-20b", GPT_OSS(24, 32)},
    {"gpt-oss-120b", GPT_OSS(36, 128)},
    {"deepseek-v2-lite",
     "{\"architectures\":[\"DeepseekV2ForCausalLM\"],\"model_type\":\"deepseek_v2\",\"num_hidden_layers\":27,"
     "\"hidden_size\":2048,\"num_attention_heads\":16,\"num_key_value_heads\":16,\"intermediate_size\":10944,"
     "\"moe_intermediate_size\":1408,\"n_routed_experts\":64,\"num_experts_per_tok\":6,\"n_shared_experts\":2,"
     "\"first_k_dense_replace\":1,\"q_lora_rank\":null,\"kv_lora_rank\":512,\"qk_nope_head_dim\":128,"
     "\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"topk_method\":\"greedy\",\"norm_topk_prob\":false,"
     "\"vocab_size\":102400,\"rope_theta\":10000.0,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40.0,"
     "\"mscale\":0.707,\"mscale_all_dim\":0.707,\"original_max_position_embeddings\":4096},"
     "\"tie_word_embeddings\":false,\"max_position_embeddings\":163840,\"rms_norm_eps\":1e-06}"},
    {"deepseek-v3",
     "{\"architectures\":[\"DeepseekV3ForCausalLM\"],\"model_type\":\"deepseek_v3\",\"num_hidden_layers\":61,"
     "\"hidden_size\":7168,\"num_attention_heads\":128,\"num_key_value_heads\":128,\"intermediate_size\":18432,"
     "\"moe_intermediate_size\":2048,\"n_routed_experts\":256,\"num_experts_per_tok\":8,\"n_shared_experts\":1,"
     "\"first_k_dense_replace\":3,\"q_lora_rank\":1536,\"kv_lora_rank\":512,\"qk_nope_head_dim\":128,"
     "\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"scoring_func\":\"sigmoid\",\"topk_method\":\"noaux_tc\","
     "\"n_group\":8,\"topk_group\":4,\"routed_scaling_factor\":2.5,\"norm_topk_prob\":true,\"vocab_size\":129280,"
     "\"rope_theta\":10000.0,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40.0,\"mscale\":1.0,"
     "\"mscale_all_dim\":1.0,\"original_max_position_embeddings\":4096},\"tie_word_embeddings\":false,"
     "\"max_position_embeddings\":163840,\"rms_norm_eps\":1e-06}"},
    {"llama-4-scout",
     "{\"architectures\":[\"Llama4ForCausalLM\"],\"model_type\":\"llama4_text\",\"num_hidden_layers\":48,"
     "\"hidden_size\":5120,\"num_attention_heads\":40,\"num_key_value_heads\":8,\"head_dim\":128,"
     "\"intermediate_size\":8192,\"intermediate_size_mlp\":16384,\"num_local_experts\":16,\"num_experts_per_tok\":1,"
     "\"interleave_moe_layer_step\":1,\"use_qk_norm\":true,\"vocab_size\":202048,\"rope_theta\":500000.0,"
     "\"tie_word_embeddings\":false,\"max_position_embeddings\":1048576,\"rms_norm_eps\":1e-05}"},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

const char *model_shape_find(const char *name) {
    for (int i = 0; i < N_SHAPES; i++)
        if (strcmp(shapes[i].name, name) == 0) return shapes[i].config;
    return NULL;
}

const char *model_shape_names(void) {
    return "smollm2-135m, llama-3.2-1b, llama-3.2-3b, llama-3.1-8b, llama-3.3-70b, qwen3-0.6b, qwen3-4b, qwen3-8b, "
           "qwen3-30b-a3b, mixtral-8x7b, gpt-oss-20b, gpt-oss-120b, deepseek-v2-lite, deepseek-v3, llama-4-scout";
}

const dtype_info *model_shape_type(const char *quant) {
    static const dtype types[] = {DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q8_0,
                                  DTYPE_Q4_0, DTYPE_Q4_K, DTYPE_Q6_K, DTYPE_MXFP4};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcasecmp(dtype_find(types[i])->name, quant) == 0) return dtype_find(types[i]);
    return NULL;
}
