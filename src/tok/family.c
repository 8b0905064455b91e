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
};

enum { N_FAMILIES = sizeof families / sizeof *families };

const char *tok_split_names(void) {
    return "gpt-2, olmo, mpt, phi-2, smollm, starcoder, refact, command-r, llama-bpe, llama3, llama-v3, smaug-bpe, "
           "dbrx, "
           "glm4, chatglm-bpe, qwen2, deepseek-r1-qwen, stablelm2, qwen35, gpt-4o, llama4, tekken, deepseek-v3";
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
