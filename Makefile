# Flambeau. `make` builds build/flambeau, build/libflambeau.a and build/libflambeau.so.
#   make V=1              shows the commands
#   make check            floors, formatting, names and sizes
#   make test-programs    the unit tests (run them with ./test.sh)
#   make SAN=address,undefined | SAN=thread      the same under build/san-...
#   make CC=clang DEBUG=1                        invariants checked after every call
#   make fuzz             libFuzzer programs in build/san-fuzzer-no-link-address-undefined/fuzz/ (clang)
#   make dist             a tarball whose binary needs only libc and libm
#   make install PREFIX=/usr/local
CC      ?= gcc
AR      ?= ar
PREFIX  ?= /usr/local
VERSION := $(shell cat VERSION)

comma := ,
SAY = $(if $(V),,@echo "  CC $<"; )
B := build$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))$(if $(DEBUG),/debug)

WARN := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
# -ffp-contract=off: every rounding is written in the source (docs/numerics.md).
CFLAGS_ALL := -std=c17 -O2 -g -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno \
  -fstack-protector-strong -D_GNU_SOURCE -DFL_VERSION='"$(VERSION)"' -Iinclude -Isrc $(WARN) $(CFLAGS)
ifndef SAN
CFLAGS_ALL += -D_FORTIFY_SOURCE=2
else
CFLAGS_ALL += -fsanitize=$(SAN) -fno-omit-frame-pointer
LDFLAGS += -fsanitize=$(SAN)
endif
ifdef DEBUG
CFLAGS_ALL += -DFL_DEBUG
endif

# The small libraries are linked statically: the binary needs libc and libm only.
LIBDIR := $(shell $(CC) -print-file-name=libjansson.a | xargs dirname)
LIBS   := $(LIBDIR)/libjansson.a $(LIBDIR)/libpcre2-8.a $(LIBDIR)/libutf8proc.a $(LIBDIR)/libminizip.a $(LIBDIR)/libz.a $(LIBDIR)/libevent_core.a -lm -lpthread -ldl

# Debian's libjansson.a is not position-independent: the shared library uses the shared ones.
LIBS_SHARED := -ljansson -lpcre2-8 -lutf8proc -lminizip -lz -lm -lpthread -ldl

ARCH := $(shell $(CC) -dumpmachine | cut -d- -f1)
SRC_LIB := $(filter-out src/cmd/% src/serve/% src/dev/cpu/x86/% src/dev/cpu/arm/%,$(shell find src -name '*.c' | LC_ALL=C sort))
ifeq ($(ARCH),x86_64)
SRC_LIB += $(wildcard src/dev/cpu/x86/*.c)
endif
SRC_CMD  := $(wildcard src/cmd/*.c)
SRC_SERVE := $(wildcard src/serve/*.c)
SRC_TEST := $(wildcard tests/unit/*/*_test.c)
OBJ_LIB  := $(SRC_LIB:%.c=$B/%.o)
OBJ_CMD  := $(SRC_CMD:%.c=$B/%.o)
OBJ_SERVE := $(SRC_SERVE:%.c=$B/%.o)
TESTS    := $(SRC_TEST:tests/unit/%.c=$B/tests/%)

.PHONY: all test-programs check format dist install clean
all: $B/flambeau $B/libflambeau.so $B/hello

# One instruction set per file: the name says which (src/dev/cpu/x86/avx2_*.c).
AVX2 := -mavx2 -mfma -mf16c
AVX512 := $(AVX2) -mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx512vnni -mprefer-vector-width=512
$B/src/dev/cpu/x86/avx2%.o: CFLAGS_ISA := $(AVX2)
$B/src/dev/cpu/x86/avx512%.o: CFLAGS_ISA := $(AVX512)
$B/src/dev/cpu/x86/amx%.o: CFLAGS_ISA := $(AVX512) -mavx512bf16 -mamx-tile -mamx-int8 -mamx-bf16
# The reference is plain loops over integers for the most part: let the compiler vectorise those.
$B/src/dev/cpu/ref/%.o: CFLAGS_ISA := -O3

$B/%.o: %.c Makefile VERSION
	@mkdir -p $(@D)
	$(SAY)$(CC) $(CFLAGS_ALL) $(CFLAGS_ISA) -MMD -MP -c -o $@ $<

$B/libflambeau.a: $(OBJ_LIB)
	@rm -f $@
	$(AR) rcs $@ $^

$B/libflambeau.so: $(OBJ_LIB) tools/libflambeau.map
	$(CC) -shared -Wl,-soname,libflambeau.so.0 -Wl,--version-script=tools/libflambeau.map -Wl,-z,relro,-z,now \
	  $(LDFLAGS) -o $@ $(OBJ_LIB) $(LIBS_SHARED)

$B/flambeau: $(OBJ_CMD) $(OBJ_SERVE) $B/libflambeau.a
	$(CC) -pie -Wl,-z,relro,-z,now $(LDFLAGS) -o $@ $(OBJ_CMD) $(OBJ_SERVE) $B/libflambeau.a $(LIBS)

$B/hello: examples/hello.c $B/libflambeau.a
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) -o $@ $< $B/libflambeau.a $(LIBS)

# cmd/ and serve/ are not in the library: their tests link the parts that need no model.
$B/tests/serve/http_test: $B/src/serve/head.o $B/src/serve/http.o
$B/tests/cmd/cmd_test: $B/src/cmd/input.o $B/src/cmd/json.o $B/src/cmd/memory.o $B/src/cmd/modules.o $B/src/cmd/options.o $B/src/cmd/out.o

test-programs: $(TESTS) all
$B/tests/%: tests/unit/%.c tests/test.h tests/test.c $B/libflambeau.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -Itests -MMD -MP $(LDFLAGS) -o $@ $< $(filter %.o,$^) tests/test.c $B/libflambeau.a $(LIBS)

# Fuzzing: clang's libFuzzer over a library that counts what it covers. A target is tests/fuzz/NAME_fuzz.c.
.PHONY: fuzz fuzz-programs
SAN_FUZZ := fuzzer-no-link,address,undefined
FUZZ := $(patsubst tests/fuzz/%_fuzz.c,$B/fuzz/%,$(wildcard tests/fuzz/*_fuzz.c))
fuzz:
	@$(MAKE) CC=clang SAN=$(SAN_FUZZ) CFLAGS=-fno-sanitize-recover=undefined fuzz-programs
fuzz-programs: $(FUZZ)
$B/fuzz/http: $B/src/serve/head.o
$B/fuzz/cmd: $B/src/cmd/input.o $B/src/cmd/json.o $B/src/cmd/options.o $B/src/cmd/out.o
$B/fuzz/%: tests/fuzz/%_fuzz.c $B/libflambeau.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -I. -MMD -MP $(LDFLAGS) -fsanitize=fuzzer -o $@ $< $(filter %.o,$^) $B/libflambeau.a $(LIBS)

check:
	@tools/check.sh

format:
	clang-format -i $$(find src include tests examples -name '*.[ch]')

dist: all
	@tools/dist.sh $(VERSION) $B

# Manual pages and completion come from the tables of the program.
COMMANDS = $(shell $B/flambeau help | sed -n 's/^  flambeau \([a-z]*\) .*/\1/p')
.PHONY: manual
manual: $B/flambeau
	@mkdir -p $B/doc
	@$B/flambeau help --man >$B/doc/flambeau.1
	@for c in $(filter-out help,$(COMMANDS)); do $B/flambeau help --man $$c >$B/doc/flambeau-$$c.1 || exit 1; done
	@$B/flambeau help --bash >$B/doc/flambeau.bash
	@$B/flambeau help --zsh >$B/doc/_flambeau

install: all manual
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 $B/doc/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -D -m 644 $B/doc/flambeau.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/flambeau
	install -D -m 644 $B/doc/_flambeau $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_flambeau
	install -D -m 755 $B/flambeau $(DESTDIR)$(PREFIX)/bin/flambeau
	install -D -m 644 $B/libflambeau.a $(DESTDIR)$(PREFIX)/lib/libflambeau.a
	install -D -m 755 $B/libflambeau.so $(DESTDIR)$(PREFIX)/lib/libflambeau.so.0
	ln -sf libflambeau.so.0 $(DESTDIR)$(PREFIX)/lib/libflambeau.so
	install -D -m 644 include/flambeau.h $(DESTDIR)$(PREFIX)/include/flambeau.h
	install -D -m 644 include/fl_err.h $(DESTDIR)$(PREFIX)/include/fl_err.h

clean:
	rm -rf build

-include $(shell find $B -name '*.d' 2>/dev/null)
