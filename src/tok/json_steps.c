/* tokenizer.json: normalisers and pre-tokenizers. Most pre-tokenizers are a pattern and a behaviour; all
 * patterns of a file are stages of one splitter. A component that is not known is refused by its name.
 */
#include "tok/json.h"

#include "base/mem.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define PUNCTUATION "[!-/:-@\\[-`{-~\\p{P}]"
#define WORD                                                                                                           \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200C}\\x{200D}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}" \
    "\\x{1F170}-\\x{1F189}"

const char *tok_json_type(const tok_node *o) {
    const char *type = tok_json_string(o, "type");
    return type ? type : "";
}

static bool is(const tok_node *o, const char *type) { return strcmp(tok_json_type(o), type) == 0; }

fl_status tok_json_unknown(const char *what, const tok_node *o, fl_err *err) {
    return fl_fail(err, FL_EUNSUPPORTED, "%s \"%.60s\" of tokenizer.json is not known", what, tok_json_type(o));
}

static fl_status no_memory(fl_err *err) { return fl_fail(err, FL_ENOMEM, "tokenizer.json"); }

fl_status tok_json_copy(const tok_node *v, const char *what, char **out, size_t *n, fl_err *err) {
    if (!tok_node_is(v, TOK_NODE_STRING)) return fl_fail(err, FL_EFORMAT, "%s of tokenizer.json has no text", what);
    *n = tok_node_text(v).n;
    *out = base_malloc(*n + 1);
    if (!*out) return no_memory(err);
    memcpy(*out, tok_node_chars(v), *n + 1);
    return FL_OK;
}

/* ---- patterns ---- */

static fl_status add_stage(tok_builder *b, const char *pattern, tok_behaviour how, bool invert, fl_err *err) {
    if (b->n_stages == TOK_STAGES_MAX)
        return fl_fail(err, FL_EUNSUPPORTED, "tokenizer.json has more than %d patterns", TOK_STAGES_MAX);
    char *copy = base_strdup(pattern);
    if (!copy) return no_memory(err);
    b->patterns[b->n_stages] = copy;
    b->stages[b->n_stages++] = (tok_stage){copy, how, invert};
    return FL_OK;
}

/* A string as a pattern. */
static bool quote(const char *s, base_buf *out) {
    for (; *s; s++) {
        if ((uint8_t)*s < 0x80 && !isalnum((uint8_t)*s) && !base_buf_putc(out, '\\')) return false;
        if (!base_buf_putc(out, *s)) return false;
    }
    return base_buf_puts(out, "");
}

fl_status tok_json_pattern(tok_builder *b, const tok_node *pattern, const char *what, tok_behaviour how, bool invert,
                           fl_err *err) {
    const tok_node *regex = tok_node_get(pattern, "Regex");
    const char *string =
        tok_node_is(pattern, TOK_NODE_STRING) ? tok_node_chars(pattern) : tok_json_string(pattern, "String");
    base_buf made = {0};
    fl_status st;
    if (tok_node_is(regex, TOK_NODE_STRING))
        st = tok_onig_translate(regex->as.bytes, regex->n, &made, err);
    else if (string)
        st = quote(string, &made) ? FL_OK : no_memory(err);
    else
        st = fl_fail(err, FL_EFORMAT, "there is no pattern");
    if (st == FL_OK) st = add_stage(b, made.data, how, invert, err);
    base_buf_clear(&made);
    return st == FL_OK ? st : fl_wrap(err, st, "%s of tokenizer.json", what);
}

/* ---- normalisers ---- */

static fl_status next_norm(tok_builder *b, tok_norm_kind kind, tok_norm **out, fl_err *err) {
    tok_pipe *p = b->p;
    *out = NULL;
    if (p->n_norms == TOK_NORMS_MAX)
        return fl_fail(err, FL_EUNSUPPORTED, "tokenizer.json has more than %d normalizers", TOK_NORMS_MAX);
    *out = &p->norms[p->n_norms++];
    **out = (tok_norm){.kind = kind, .stage = TOK_NONE};
    return FL_OK;
}

static fl_status read_replace(tok_builder *b, const tok_node *o, fl_err *err) {
    tok_norm *s;
    fl_status st = next_norm(b, TOK_NORM_REPLACE, &s, err);
    const tok_node *pattern = tok_node_get(o, "pattern");
    if (st == FL_OK) st = tok_json_copy(tok_node_get(o, "content"), "normalizer Replace", &s->to, &s->n_to, err);
    if (st != FL_OK) return st;
    if (tok_node_get(pattern, "String"))
        return tok_json_copy(tok_node_get(pattern, "String"), "normalizer Replace", &s->from, &s->n_from, err);
    s->stage = b->n_stages;
    return tok_json_pattern(b, pattern, "normalizer Replace", TOK_ISOLATED, false, err);
}

size_t tok_unbase64(char *s, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t k = 0;
    uint32_t bits = 0, n_bits = 0;
    while (n && s[n - 1] == '=') n--;
    for (size_t i = 0; i < n; i++) {
        const char *d = s[i] ? strchr(digits, s[i]) : NULL;
        if (!d) return SIZE_MAX;
        bits = bits << 6 | (uint32_t)(d - digits);
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        s[k++] = (char)(bits >> n_bits);
        bits &= (1u << n_bits) - 1;
    }
    return k;
}

static fl_status read_precompiled(tok_builder *b, const tok_node *o, fl_err *err) {
    char *blob = NULL;
    size_t n;
    tok_norm *s;
    fl_status st = tok_json_copy(tok_node_get(o, "precompiled_charsmap"), "normalizer Precompiled", &blob, &n, err);
    if (st == FL_OK && (n = tok_unbase64(blob, n)) == SIZE_MAX)
        st = fl_fail(err, FL_EFORMAT, "normalizer Precompiled of tokenizer.json is no base64");
    if (st == FL_OK && n) {
        st = next_norm(b, TOK_NORM_CHARSMAP, &s, err);
        if (st == FL_OK) st = tok_charsmap_open(&s->map, blob, n, err);
    }
    base_free(blob);
    return st;
}

static fl_status read_bert(tok_builder *b, const tok_node *o, fl_err *err) {
    tok_norm *s;
    bool lower = tok_json_bool(o, "lowercase", true);
    fl_status st = FL_OK;
    if (tok_json_bool(o, "clean_text", true)) st = next_norm(b, TOK_NORM_CLEAN, &s, err);
    if (st == FL_OK && tok_json_bool(o, "handle_chinese_chars", true)) st = next_norm(b, TOK_NORM_CHINESE, &s, err);
    if (st == FL_OK && tok_json_bool(o, "strip_accents", lower)) {
        st = next_norm(b, TOK_NORM_FORM, &s, err);
        if (st == FL_OK) {
            s->form = TOK_FORM_NFD;
            st = next_norm(b, TOK_NORM_UNMARK, &s, err);
            if (st == FL_OK) s->left = true;
        }
    }
    if (st == FL_OK && lower) st = next_norm(b, TOK_NORM_LOWER, &s, err);
    return st;
}

static fl_status read_norm(tok_builder *b, const tok_node *o, int depth, fl_err *err) {
    static const struct {
        const char *name;
        tok_norm_kind kind;
        tok_form form;
    } plain[] = {{"NFC", TOK_NORM_FORM, TOK_FORM_NFC},
                 {"NFD", TOK_NORM_FORM, TOK_FORM_NFD},
                 {"NFKC", TOK_NORM_FORM, TOK_FORM_NFKC},
                 {"NFKD", TOK_NORM_FORM, TOK_FORM_NFKD},
                 {"Lowercase", TOK_NORM_LOWER, 0},
                 {"StripAccents", TOK_NORM_UNMARK, 0},
                 {"Strip", TOK_NORM_STRIP, 0},
                 {"Prepend", TOK_NORM_PREPEND, 0},
                 {"Nmt", TOK_NORM_NMT, 0},
                 {"ByteLevel", TOK_NORM_LEVEL, 0}};
    if (!o || tok_node_is(o, TOK_NODE_NULL)) return FL_OK;
    const tok_node *item;
    tok_norm *s;
    fl_status st = FL_OK;
    if (is(o, "Sequence") && depth < TOK_JSON_DEPTH) {
        const tok_node *list = tok_node_get(o, "normalizers");
        for (item = tok_node_first(list); item; item = tok_node_next(list, item)) {
            st = read_norm(b, item, depth + 1, err);
            if (st != FL_OK) return st;
        }
        return FL_OK;
    }
    if (is(o, "Replace")) return read_replace(b, o, err);
    if (is(o, "Precompiled")) return read_precompiled(b, o, err);
    if (is(o, "BertNormalizer")) return read_bert(b, o, err);
    for (size_t k = 0; k < sizeof plain / sizeof *plain; k++) {
        if (!is(o, plain[k].name)) continue;
        st = next_norm(b, plain[k].kind, &s, err);
        if (st != FL_OK) return st;
        s->form = plain[k].form;
        s->left = s->kind == TOK_NORM_STRIP && tok_json_bool(o, "strip_left", true);
        s->right = tok_json_bool(o, "strip_right", true);
        if (s->kind != TOK_NORM_PREPEND) return FL_OK;
        return tok_json_copy(tok_node_get(o, "prepend"), "normalizer Prepend", &s->to, &s->n_to, err);
    }
    return tok_json_unknown("normalizer", o, err);
}

/* ---- pre-tokenizers ---- */

static fl_status next_pre(tok_builder *b, tok_pre_kind kind, tok_pre **out, fl_err *err) {
    tok_pipe *p = b->p;
    *out = NULL;
    if (p->n_pres == TOK_PRES_MAX)
        return fl_fail(err, FL_EUNSUPPORTED, "tokenizer.json has more than %d pre-tokenizers", TOK_PRES_MAX);
    *out = &p->pres[p->n_pres++];
    **out = (tok_pre){.kind = kind};
    return FL_OK;
}

/* The last stage added is run behind what there is. */
static fl_status run_last(tok_builder *b, fl_err *err) {
    tok_pipe *p = b->p;
    tok_pre *s = p->n_pres ? &p->pres[p->n_pres - 1] : NULL;
    if (s && s->kind == TOK_PRE_SPLIT && s->end == b->n_stages - 1) {
        s->end++;
        return FL_OK;
    }
    fl_status st = next_pre(b, TOK_PRE_SPLIT, &s, err);
    if (st != FL_OK) return st;
    s->first = b->n_stages - 1;
    s->end = b->n_stages;
    return FL_OK;
}

static fl_status put_split(tok_builder *b, const char *pattern, tok_behaviour how, bool invert, fl_err *err) {
    fl_status st = add_stage(b, pattern, how, invert, err);
    return st == FL_OK ? run_last(b, err) : st;
}

static fl_status read_behaviour(const tok_node *o, tok_behaviour *out, fl_err *err) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = tok_json_string(o, "behavior");
    *out = TOK_ISOLATED;
    if (!name) return FL_OK;
    for (int k = 0; k < 5; k++)
        if (strcmp(name, names[k]) == 0) {
            *out = (tok_behaviour)k;
            return FL_OK;
        }
    return fl_fail(err, FL_EUNSUPPORTED, "behavior \"%.60s\" of pre-tokenizer %s is not known", name, tok_json_type(o));
}

fl_status tok_json_prepend(const tok_node *o, tok_prepend *out, fl_err *err) {
    const char *scheme = tok_json_string(o, "prepend_scheme");
    *out = tok_json_bool(o, "add_prefix_space", true) ? TOK_PREPEND_ALWAYS : TOK_PREPEND_NEVER;
    if (!scheme) return FL_OK;
    if (strcmp(scheme, "always") == 0)
        *out = TOK_PREPEND_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        *out = TOK_PREPEND_FIRST;
    else if (strcmp(scheme, "never") == 0)
        *out = TOK_PREPEND_NEVER;
    else
        return fl_fail(err, FL_EUNSUPPORTED, "prepend_scheme \"%.60s\" of Metaspace is not known", scheme);
    return FL_OK;
}

static fl_status read_metaspace(tok_builder *b, const tok_node *o, fl_err *err) {
    tok_pre *s;
    const char *sign = tok_json_string(o, "replacement");
    if (!sign) sign = "\xe2\x96\x81";
    fl_status st = next_pre(b, TOK_PRE_METASPACE, &s, err);
    if (st == FL_OK) st = tok_json_prepend(o, &s->prepend, err);
    if (st != FL_OK) return st;
    if (!*sign || strlen(sign) > 4) return fl_fail(err, FL_EFORMAT, "replacement of Metaspace is not one character");
    memcpy(s->sign, sign, strlen(sign) + 1);
    if (!tok_json_bool(o, "split", true)) return FL_OK;
    base_buf pattern = {0};
    st = quote(sign, &pattern) ? put_split(b, pattern.data, TOK_WITH_NEXT, false, err) : no_memory(err);
    base_buf_clear(&pattern);
    return st;
}

static fl_status read_bytelevel(tok_builder *b, const tok_node *o, fl_err *err) {
    tok_pre *s;
    fl_status st = FL_OK;
    if (tok_json_bool(o, "add_prefix_space", true)) {
        st = next_pre(b, TOK_PRE_BLANK, &s, err);
        if (st == FL_OK) memcpy(s->sign, " ", 2);
    }
    if (st == FL_OK && tok_json_bool(o, "use_regex", true))
        st = put_split(b, TOK_PATTERN_GPT2, TOK_ISOLATED, false, err);
    return st == FL_OK ? next_pre(b, TOK_PRE_LEVEL, &s, err) : st;
}

static fl_status read_fixed_length(tok_builder *b, const tok_node *o, fl_err *err) {
    const tok_node *v = tok_node_get(o, "length");
    int64_t n = v ? tok_node_int(v) : 5;
    char pattern[32];
    if (n < 1 || n > 65535)
        return fl_fail(err, FL_EUNSUPPORTED, "pre-tokenizer FixedLength of %lld characters; 1 to 65535 are possible",
                       (long long)n);
    (void)snprintf(pattern, sizeof pattern, "(?s:.{1,%d})", (int)n);
    return put_split(b, pattern, TOK_ISOLATED, false, err);
}

static const char scripts[] =
    "Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali "
    "Bhaiksuki Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian "
    "Chakma Cham Cherokee Coptic Cuneiform Cypriot Cyrillic Deseret Devanagari Duployan "
    "Egyptian_Hieroglyphs Elbasan Ethiopic Georgian Glagolitic Gothic Grantha Greek Gujarati Gurmukhi "
    "Hangul Hanunoo Hatran Hebrew Imperial_Aramaic Inherited Inscriptional_Pahlavi "
    "Inscriptional_Parthian Javanese Kaithi Kannada Kayah_Li Kharoshthi Khmer Khojki Khudawadi Lao "
    "Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Malayalam Mandaic Manichaean "
    "Marchen Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro "
    "Multani Myanmar Nabataean New_Tai_Lue Newa Nko Ogham Ol_Chiki Old_Hungarian Old_Italic "
    "Old_North_Arabian Old_Permic Old_Persian Old_South_Arabian Old_Turkic Oriya Osage Osmanya "
    "Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan "
    "Saurashtra Sharada Shavian Siddham Sign_Writing Sinhala Sora_Sompeng Sundanese Syloti_Nagri "
    "Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangut Telugu Thaana Thai Tibetan "
    "Tifinagh Tirhuta Ugaritic Vai Warang_Citi Yi";

/* A word is a run of one script, blanks and unassigned characters inside or behind it; those in front are dropped.
 * Japanese is one script. Source: huggingface/tokenizers, pre_tokenizers/unicode_scripts. */
static fl_status read_scripts(tok_builder *b, fl_err *err) {
    base_buf p = {0};
    base_buf_puts(&p, "[\\p{sc:Han}\\p{sc:Hiragana}\\p{sc:Katakana}\\x{30FC}]"
                      "[\\p{sc:Han}\\p{sc:Hiragana}\\p{sc:Katakana}\\x{30FC} \\p{sc:Unknown}]*"
                      "|[^\\P{sc:Common}\\x{30FC} ](?:[^\\P{sc:Common}\\x{30FC}]|\\p{sc:Unknown})*");
    for (const char *name = scripts; *name;) {
        size_t n = strcspn(name, " ");
        base_buf_puts(&p, "|\\p{sc:");
        base_buf_append(&p, name, n);
        base_buf_puts(&p, "}[\\p{sc:");
        base_buf_append(&p, name, n);
        base_buf_puts(&p, "} \\p{sc:Unknown}]*");
        name += n + (name[n] == ' ');
    }
    fl_status st = p.failed ? no_memory(err) : put_split(b, p.data, TOK_REMOVED, true, err);
    base_buf_clear(&p);
    return st;
}

static fl_status read_pattern_pre(tok_builder *b, const tok_node *o, fl_err *err) {
    tok_behaviour how;
    fl_status st = read_behaviour(o, &how, err);
    if (st != FL_OK) return st;
    if (is(o, "Punctuation")) return put_split(b, PUNCTUATION, how, false, err);
    st = is(o, "Split") ? tok_json_pattern(b, tok_node_get(o, "pattern"), "pre-tokenizer Split", how,
                                           tok_json_bool(o, "invert", false), err)
                        : tok_json_pattern(b, tok_node_get(o, "delimiter"), "pre-tokenizer CharDelimiterSplit",
                                           TOK_REMOVED, false, err);
    return st == FL_OK ? run_last(b, err) : st;
}

static fl_status read_pre(tok_builder *b, const tok_node *o, int depth, fl_err *err) {
    if (!o || tok_node_is(o, TOK_NODE_NULL)) return FL_OK;
    const tok_node *item;
    fl_status st = FL_OK;
    if (is(o, "Sequence") && depth < TOK_JSON_DEPTH) {
        const tok_node *list = tok_node_get(o, "pretokenizers");
        for (item = tok_node_first(list); item; item = tok_node_next(list, item)) {
            st = read_pre(b, item, depth + 1, err);
            if (st != FL_OK) return st;
        }
        return FL_OK;
    }
    if (is(o, "ByteLevel")) return read_bytelevel(b, o, err);
    if (is(o, "Metaspace")) return read_metaspace(b, o, err);
    if (is(o, "Split") || is(o, "Punctuation") || is(o, "CharDelimiterSplit")) return read_pattern_pre(b, o, err);
    if (is(o, "UnicodeScripts")) return read_scripts(b, err);
    if (is(o, "FixedLength")) return read_fixed_length(b, o, err);
    if (is(o, "Digits"))
        return put_split(b, "\\p{N}", tok_json_bool(o, "individual_digits", false) ? TOK_ISOLATED : TOK_CONTIGUOUS,
                         false, err);
    if (is(o, "WhitespaceSplit")) return put_split(b, "[" TOK_WHITE "]", TOK_REMOVED, false, err);
    if (is(o, "Whitespace")) return put_split(b, "[" WORD "]+|[^" WORD TOK_WHITE "]+", TOK_REMOVED, true, err);
    if (is(o, "BertPreTokenizer")) {
        st = put_split(b, "[" TOK_WHITE "]", TOK_REMOVED, false, err);
        return st == FL_OK ? put_split(b, PUNCTUATION, TOK_ISOLATED, false, err) : st;
    }
    return tok_json_unknown("pre-tokenizer", o, err);
}

/* The usual case: BPE whose symbols are bytes, spelled as characters last before the model and unspelled first behind it.
 * Then the spelling is undone in the vocabulary, and left out here. */
static void find_bytes(tok_builder *b) {
    tok_pipe *p = b->p;
    if (p->model != TOK_MODEL_CHARS || p->prefix || p->suffix || p->byte_fallback || !p->dec_bytes) return;
    if (!p->n_pres || p->pres[p->n_pres - 1].kind != TOK_PRE_LEVEL) return;
    for (uint32_t i = 0; i + 1 < p->n_pres; i++)
        if (p->pres[i].kind == TOK_PRE_LEVEL) return;
    for (uint32_t i = 0; i < p->n_norms; i++)
        if (p->norms[i].kind == TOK_NORM_LEVEL) return;
    p->n_pres--;
    p->model = TOK_MODEL_BYTES;
}

fl_status tok_json_steps(tok_builder *b, fl_err *err) {
    fl_status st = read_norm(b, tok_node_get(b->root, "normalizer"), 0, err);
    if (st == FL_OK) st = read_pre(b, tok_node_get(b->root, "pre_tokenizer"), 0, err);
    if (st == FL_OK) st = tok_json_decoder(b, err);
    if (st == FL_OK) st = tok_split_open(&b->t->split, b->stages, b->n_stages, err);
    if (st == FL_OK) find_bytes(b);
    return st;
}
