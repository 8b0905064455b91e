/* The names that GGUF gives to splitters in tokenizer.ggml.pre, and what follows from a name: the patterns, and the
 * rules that the file itself does not carry (normal form, whole pieces before merges, a bos token by default).
 *
 * White space is spelled out: PCRE2's \s also has U+180E, which the reference engine has not. Order of the
 * alternatives matters: the first that matches is taken.
 */
#include "tok/tok_int.h"

#include <string.h>

/* Inside a class: white space; upper-case letters and what counts as such, lower-case ones. */
#define W     TOK_WHITE
#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define LEAD        "[^\\r\\n\\p{L}\\p{N}]?"
#define NEWLINES    "[" W "]*[\\r\\n]+"
#define BLANKS      "[" W "]+(?![^" W "])|[" W "]+"
#define OTHERS      " ?[^" W "\\p{L}\\p{N}]+"
#define CAMEL       LEAD "[" UPPER "]*[" LOWER "]+"
#define CAPITALS    LEAD "[" UPPER "]+[" LOWER "]*"
#define ASCII_PUNCT "[!-/:-@\\[-`{-~]"

#define PATTERN_DIGIT  "\\p{N}"
#define PATTERN_LLAMA3 CONTRACTION "|" LEAD "\\p{L}+|\\p{N}{1,3}|" OTHERS "[\\r\\n]*|" NEWLINES "|" BLANKS
#define PATTERN_QWEN2  CONTRACTION "|" LEAD "\\p{L}+|\\p{N}|" OTHERS "[\\r\\n]*|" NEWLINES "|" BLANKS
#define PATTERN_QWEN35                                                                                                 \
    CONTRACTION "|" LEAD "[\\p{L}\\p{M}]+|\\p{N}| ?[^" W "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" NEWLINES "|" BLANKS
#define PATTERN_O200K                                                                                                  \
    CAMEL CONTRACTION "?|" CAPITALS CONTRACTION "?|\\p{N}{1,3}|" OTHERS "[\\r\\n/]*|" NEWLINES "|" BLANKS
#define PATTERN_TEKKEN CAMEL "|" CAPITALS "|\\p{N}|" OTHERS "[\\r\\n/]*|" NEWLINES "|" BLANKS

#define CJK_KANA "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"
#define DEEPSEEK_V3                                                                                                    \
    ASCII_PUNCT "[A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" NEWLINES "|" BLANKS

/* Letters with case, as the DeepSeek V2 files list them. */
#define CASED                                                                                                          \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}"                    \
    "\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}"             \
    "\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}"                    \
    "\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}"                  \
    "\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}"                  \
    "\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}"          \
    "\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}"         \
    "\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}"                   \
    "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}"                    \
    "\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}"                    \
    "\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}"                   \
    "\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}"                  \
    "\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}"                \
    "\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}"                             \
    "\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"
#define CJK_HANGUL "[\\x{4E00}-\\x{9FA5}\\x{0800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
#define WIDE_PUNCT "!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}"

static const tok_family families[] = {
    {"gpt-2", 0, {TOK_PATTERN_GPT2}},
    {"olmo", 0, {TOK_PATTERN_GPT2}},
    {"mpt", 0, {TOK_PATTERN_GPT2}},
    {"phi-2", 0, {TOK_PATTERN_GPT2}},
    {"smollm", 0, {PATTERN_DIGIT, TOK_PATTERN_GPT2}},
    {"starcoder", 0, {PATTERN_DIGIT, TOK_PATTERN_GPT2}},
    {"refact", 0, {PATTERN_DIGIT, TOK_PATTERN_GPT2}},
    {"command-r", 0, {PATTERN_DIGIT, TOK_PATTERN_GPT2}},
    {"llama-bpe", TOK_WHOLE_FIRST | TOK_BOS_DEFAULT, {PATTERN_LLAMA3}},
    {"llama3", TOK_WHOLE_FIRST | TOK_BOS_DEFAULT, {PATTERN_LLAMA3}},
    {"llama-v3", TOK_WHOLE_FIRST | TOK_BOS_DEFAULT, {PATTERN_LLAMA3}},
    {"smaug-bpe", 0, {PATTERN_LLAMA3}},
    {"dbrx", 0, {PATTERN_LLAMA3}},
    {"glm4", 0, {PATTERN_LLAMA3}},
    {"chatglm-bpe", 0, {PATTERN_LLAMA3}},
    {"qwen2", TOK_NFC, {PATTERN_QWEN2}},
    {"deepseek-r1-qwen", TOK_NFC, {PATTERN_QWEN2}},
    {"stablelm2", 0, {PATTERN_QWEN2}},
    {"qwen35", TOK_NFC, {PATTERN_QWEN35}},
    {"gpt-4o", 0, {PATTERN_O200K}},
    {"llama4", TOK_WHOLE_FIRST, {PATTERN_O200K}},
    {"tekken", TOK_WHOLE_FIRST | TOK_BOS_DEFAULT, {PATTERN_TEKKEN}},
    {"deepseek-v3", 0, {"\\p{N}{1,3}", CJK_KANA, DEEPSEEK_V3}},
    {"deepseek-llm",
     0,
     {"[\\r\\n]", "[" W "]?[" CASED "]+", "[" W "]?[" WIDE_PUNCT "]+", "[" W "]+$", CJK_HANGUL, "\\p{N}+"}},
    {"deepseek-coder", 0, {"[\\r\\n]", "[" W "]?\\p{L}+", "[" W "]?\\p{P}+", CJK_HANGUL, PATTERN_DIGIT}},
};

enum { N_FAMILIES = sizeof families / sizeof *families };

const char *tok_split_names(void) {
    return "gpt-2, olmo, mpt, phi-2, smollm, starcoder, refact, command-r, llama-bpe, llama3, llama-v3, smaug-bpe, "
           "dbrx, "
           "glm4, chatglm-bpe, qwen2, deepseek-r1-qwen, stablelm2, qwen35, gpt-4o, llama4, tekken, deepseek-v3, "
           "deepseek-llm, deepseek-coder";
}

const tok_family *tok_family_find(const char *name) {
    for (int k = 0; k < N_FAMILIES; k++)
        if (strcmp(families[k].name, name) == 0) return &families[k];
    return NULL;
}

bool tok_split_adds_bos(const char *name) {
    const tok_family *f = tok_family_find(name);
    return f && f->rules & TOK_BOS_DEFAULT;
}
