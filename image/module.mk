# SPDX-License-Identifier: GPL-2.0-or-later
# The guest image: vmlinuz, initramfs.img and a kernel command line per role in $(IMAGE).

IMAGE := $(B)/image
IMAGE_FILES := $(IMAGE)/vmlinuz $(IMAGE)/initramfs.img $(IMAGE)/cmdline.pvm $(IMAGE)/cmdline.cvm
# What init and agent say must not depend on where they were built.
$(B)/obj/image/%.o: MOD_CFLAGS += -ffile-prefix-map=$(CURDIR)=.

IMAGE_COMMON := $(COMMON_SOURCES:%.c=$(B)/obj/%.o)
INIT_OBJECTS := $(patsubst %,$(B)/obj/image/%.o,init boot supervisor)
AGENT_OBJECTS := $(patsubst %,$(B)/obj/image/%.o,agent alive envelope probe)

# A sanitized program can't be static: these two are then built, but packed by nobody.
IMAGE_LDFLAGS := $(if $(filter 1,$(SANITIZE)),,-static)

$(B)/edgeplex-init: $(INIT_OBJECTS) $(IMAGE_COMMON) $(CJSON_ARCHIVE)
	$(CC) $(LDFLAGS) $(IMAGE_LDFLAGS) -o $@ $^ -lm

$(B)/edgeplex-agent: $(AGENT_OBJECTS) $(IMAGE_COMMON) $(CJSON_ARCHIVE)
	$(CC) $(LDFLAGS) $(IMAGE_LDFLAGS) -o $@ $^ -lm

PROGRAMS += $(B)/edgeplex-init $(B)/edgeplex-agent
GUEST_PROGRAMS += $(B)/edgeplex-init $(B)/edgeplex-agent

# pack makes both at once.
$(IMAGE)/initramfs.img: image/pack image/modules.list $(GUEST_PROGRAMS) $(KERNEL_IMAGE)
	@mkdir -p $(@D)
	image/pack $(IMAGE) $(DEPS)/kernel $(GUEST_PROGRAMS)

$(IMAGE)/vmlinuz: $(IMAGE)/initramfs.img ;

$(IMAGE)/cmdline.%: image/cmdline.%
	@mkdir -p $(@D)
	cp $< $@

.PHONY: image
image: $(IMAGE_FILES) ## Build the guest's kernel and initramfs
	@ls -l $(IMAGE_FILES) | awk '{ printf "%9d %s\n", $$5, $$NF }'

define image_unit_test
$(B)/tests/image/$(1)_test: $(B)/obj/image/$(1)_test.o $(B)/obj/image/$(1).o
	@mkdir -p $$(@D)
	$(CC) $(LDFLAGS) -o $$@ $$^ -lcjson -lcmocka
UNIT_TESTS += $(B)/tests/image/$(1)_test
endef
$(foreach t,alive envelope supervisor,$(eval $(call image_unit_test,$(t))))

$(B)/fuzz/envelope: image/envelope_fuzz.c image/envelope.c image/envelope.h
	@mkdir -p $(@D)
	clang $(CPPFLAGS) $(FUZZ_CFLAGS) -o $@ $(filter %.c,$^) -lcjson
FUZZERS += $(B)/fuzz/envelope
