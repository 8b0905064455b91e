#include "cmd/manual.h"

#include <stdio.h>
#include <string.h>

/* ---- manual pages ----- */

/* Text in roff: no escape, no request at the start of a line, hyphens that can be searched for. */
static void roff(base_buf *b, const char *text) {
    bool at_start = true;
    for (const char *s = text; *s; s++) {
        if (at_start && (*s == '.' || *s == '\'')) base_buf_puts(b, "\\&");
        if (*s == '\\')
            base_buf_puts(b, "\\e");
        else if (*s == '-')
            base_buf_puts(b, "\\-");
        else
            base_buf_putc(b, *s);
        at_start = *s == '\n';
    }
}

static void option_entries(base_buf *b, unsigned command) {
    cmd_option_view v;
    for (uint32_t at = 0; cmd_options_next(command, &at, &v);) {
        base_buf_puts(b, ".TP\n");
        if (v.letter) base_buf_printf(b, "\\fB\\-%c\\fR%s", v.letter, v.name ? ", " : "");
        if (v.name) {
            base_buf_puts(b, "\\fB\\-\\-");
            roff(b, v.name);
            base_buf_puts(b, "\\fR");
        }
        if (v.value) base_buf_printf(b, " \\fI%s\\fR", v.value);
        base_buf_putc(b, '\n');
        roff(b, v.help);
        base_buf_putc(b, '\n');
    }
}

static void command_page(base_buf *b, const cmd_command *c) {
    base_buf_printf(b, ".TH FLAMBEAU\\-%s 1 \"\" \"flambeau %s\" \"User Commands\"\n", c->name, fl_version());
    base_buf_printf(b, ".SH NAME\nflambeau\\-%s \\- %s\n.SH SYNOPSIS\n\\fBflambeau %s\\fR ", c->name, c->summary,
                    c->name);
    roff(b, c->arguments);
    base_buf_puts(b, " [OPTIONS]\n");
    if (c->text) {
        base_buf_puts(b, ".SH DESCRIPTION\n");
        roff(b, c->text);
        base_buf_putc(b, '\n');
    }
    base_buf_puts(b, ".SH OPTIONS\n");
    option_entries(b, c->bit);
    base_buf_puts(b, ".SH SEE ALSO\n.BR flambeau (1)\n");
}

static void main_page(base_buf *b) {
    base_buf_printf(b, ".TH FLAMBEAU 1 \"\" \"flambeau %s\" \"User Commands\"\n", fl_version());
    base_buf_puts(b, ".SH NAME\nflambeau \\- runs language models\n"
                     ".SH SYNOPSIS\n\\fBflambeau\\fR COMMAND [ARGUMENTS] [OPTIONS]\n"
                     ".SH DESCRIPTION\nMODEL is a .gguf file or a name from\n.BR \"flambeau list\" ,\n"
                     "which is downloaded when it is missing. Results go to stdout, everything else to stderr.\n"
                     ".SH COMMANDS\n");
    for (const cmd_command *c = cmd_commands; c->name; c++) {
        base_buf_printf(b, ".TP\n\\fBflambeau %s\\fR ", c->name);
        roff(b, c->arguments);
        base_buf_printf(b, "\n%s; see\n.BR flambeau\\-%s (1)\n", c->summary, c->name);
    }
    base_buf_puts(b, ".SH EXIT STATUS\n0: done. 1: failed. 2: wrong usage. 130: ended by Ctrl\\-C. 143: by SIGTERM.\n"
                     ".SH ENVIRONMENT\n.TP\n\\fBFLAMBEAU_CACHE\\fR\nwhere models are kept (~/.cache/flambeau)\n"
                     ".TP\n\\fBXDG_STATE_HOME\\fR\nflambeau/history in it keeps the questions of chats "
                     "(~/.local/state)\n.TP\n\\fBNO_COLOR\\fR\nno colour and no bars\n");
}

void cmd_manual_page(base_buf *b, const cmd_command *command) {
    if (command)
        command_page(b, command);
    else
        main_page(b);
}

/* ---- completion ----- */

static bool takes_file(const cmd_option_view *v) { return v->value && strcmp(v->value, "FILE") == 0; }
static bool takes_model(const cmd_command *c) {
    return strstr(c->arguments, "MODEL") || strcmp(c->arguments, "NAME") == 0;
}

/* "-t --threads " for every option; files: only those whose value is a file. */
static void option_words(base_buf *b, unsigned command, bool files, const char *separator) {
    cmd_option_view v;
    const char *before = "";
    for (uint32_t at = 0; cmd_options_next(command, &at, &v);) {
        if (files && !takes_file(&v)) continue;
        if (v.letter) base_buf_printf(b, "%s-%c", before, v.letter);
        if (v.letter) before = separator;
        if (v.name) base_buf_printf(b, "%s--%s", before, v.name);
        before = separator;
    }
}

void cmd_manual_bash(base_buf *b) {
    base_buf_puts(
        b, "# bash completion for flambeau, written by 'flambeau help --bash'\n"
           "_flambeau() {\n"
           "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} options= files= models=\n"
           "    COMPREPLY=()\n"
           "    if [ \"$COMP_CWORD\" = 1 ]; then\n"
           "        COMPREPLY=($(compgen -W \"");
    for (const cmd_command *c = cmd_commands; c->name; c++) base_buf_printf(b, "%s ", c->name);
    base_buf_puts(b, "help --help --version\" -- \"$word\"))\n        return\n    fi\n    case ${COMP_WORDS[1]} in\n");
    for (const cmd_command *c = cmd_commands; c->name; c++) {
        base_buf_printf(b, "    %s)\n        options=\"", c->name);
        option_words(b, c->bit, false, " ");
        base_buf_puts(b, "\"\n        files=\" ");
        option_words(b, c->bit, true, " ");
        base_buf_printf(b, " \"\n%s        ;;\n", takes_model(c) ? "        models=1\n" : "");
    }
    base_buf_puts(b, "    help)\n        options=\"");
    for (const cmd_command *c = cmd_commands; c->name; c++) base_buf_printf(b, "%s ", c->name);
    base_buf_puts(
        b, "\"\n        ;;\n    esac\n"
           "    case \"$files\" in *\" $before \"*) compopt -o filenames; COMPREPLY=($(compgen -f -- \"$word\")); "
           "return ;; esac\n"
           "    case \"$word${COMP_WORDS[1]}\" in\n"
           "    -* | help | *help) COMPREPLY=($(compgen -W \"$options\" -- \"$word\")); return ;;\n"
           "    esac\n"
           "    if [ -n \"$models\" ] && [ \"$COMP_CWORD\" = 2 ]; then\n"
           "        COMPREPLY=($(compgen -W \"$(flambeau list 2>/dev/null | sed '1d; s/ .*//')\" -- \"$word\"))\n"
           "    fi\n"
           "    compopt -o filenames 2>/dev/null\n"
           "    COMPREPLY+=($(compgen -f -- \"$word\"))\n"
           "}\n"
           "complete -F _flambeau flambeau\n");
}

/* Help text inside '...[...]' of zsh's _arguments. */
static void zsh_text(base_buf *b, const char *text) {
    for (const char *s = text; *s; s++) {
        if (*s == '\'')
            base_buf_puts(b, "'\\''");
        else if (strchr("[]:\\", *s))
            base_buf_printf(b, "\\%c", *s);
        else
            base_buf_putc(b, *s);
    }
}

static void zsh_option(base_buf *b, const char *dashes, const char *name, const cmd_option_view *v) {
    base_buf_printf(b, " \\\n            '*%s%s[", dashes, name);
    zsh_text(b, v->help);
    base_buf_putc(b, ']');
    if (v->value) base_buf_printf(b, ":%s:%s", v->value, takes_file(v) ? "_files" : "");
    base_buf_putc(b, '\'');
}

void cmd_manual_zsh(base_buf *b) {
    base_buf_puts(b, "#compdef flambeau\n# zsh completion for flambeau, written by 'flambeau help --zsh'\n"
                     "_flambeau() {\n    local -a commands models\n    commands=(\n");
    for (const cmd_command *c = cmd_commands; c->name; c++) {
        base_buf_printf(b, "        '%s:", c->name);
        zsh_text(b, c->summary);
        base_buf_puts(b, "'\n");
    }
    base_buf_puts(b, "        'help:the options of a command'\n    )\n"
                     "    if (( CURRENT == 2 )); then _describe command commands; return; fi\n"
                     "    local command=$words[2]\n    shift words; (( CURRENT-- ))\n"
                     "    models=(${(f)\"$(flambeau list 2>/dev/null | sed '1d; s/ .*//')\"})\n"
                     "    case $command in\n    help) _describe command commands ;;\n");
    for (const cmd_command *c = cmd_commands; c->name; c++) {
        base_buf_printf(b, "    %s)\n        _arguments", c->name);
        cmd_option_view v;
        for (uint32_t at = 0; cmd_options_next(c->bit, &at, &v);) {
            char letter[2] = {v.letter, '\0'};
            if (v.letter) zsh_option(b, "-", letter, &v);
            if (v.name) zsh_option(b, "--", v.name, &v);
        }
        if (takes_model(c)) base_buf_puts(b, " \\\n            '1:model:{ compadd -a models; _files }'");
        base_buf_puts(b, " \\\n            '*:file:_files'\n        ;;\n");
    }
    base_buf_puts(b, "    esac\n}\n_flambeau \"$@\"\n");
}
