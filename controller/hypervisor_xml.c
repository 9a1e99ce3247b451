/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/hypervisor_xml.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include <libxml/parser.h>
#include <libxml/tree.h>
#include <libxml/xmlsave.h>
#include <libxml/xmlstring.h>

#include "controller/hypervisor.h"

/* Live migration and everything that looks at dirty pages depend on the machine type. */
#define MACHINE "pc-q35-7.2"
#define TB_CACHE_MIB "24"
#define MAX_VLAN 4094
#define MIN_MTU 576
#define RAM_ID "edgeplex.ram"
#define QEMU_URI "http://libvirt.org/schemas/domain/qemu/1.0"

/* A document that is being built; `failed` when memory ran out, and then nothing more is added. */
struct xml {
	bool failed;
};

static xmlNodePtr element(struct xml *xml, xmlNodePtr parent, const char *name, const char *content)
{
	xmlNodePtr node =
		xml->failed ? NULL : xmlNewTextChild(parent, NULL, BAD_CAST name, BAD_CAST content);

	if (!node)
		xml->failed = true;
	return node;
}

__attribute__((format(printf, 4, 5))) static void attribute(
	struct xml *xml, xmlNodePtr node, const char *name, const char *fmt, ...)
{
	char *value = NULL;
	va_list args;

	va_start(args, fmt);
	if (xml->failed || vasprintf(&value, fmt, args) < 0) {
		value = NULL;
		xml->failed = true;
	}
	va_end(args);
	if (value && !xmlNewProp(node, BAD_CAST name, BAD_CAST value))
		xml->failed = true;
	free(value);
}

/* <name key=value .../> */
#define leaf(xml, parent, ...) leaf_of(xml, parent, __VA_ARGS__, (const char *)NULL)

static xmlNodePtr leaf_of(struct xml *xml, xmlNodePtr parent, const char *name, ...)
{
	xmlNodePtr node = element(xml, parent, name, NULL);
	const char *key;
	va_list args;

	va_start(args, name);
	while ((key = va_arg(args, const char *)))
		attribute(xml, node, key, "%s", va_arg(args, const char *));
	va_end(args);
	return node;
}

/* ---- checks ------------------------------------------------------------------------------- */

static unsigned layout_of(const struct hv_vm_spec *spec)
{
	return spec->layout != 0 ? spec->layout : HV_LAYOUT;
}

static bool is_uuid(const char *text)
{
	for (int i = 0; i < HV_UUID_LEN - 1; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? text[i] != '-' : !isxdigit((unsigned char)text[i]) || isupper(text[i]))
			return false;
	}
	return text[HV_UUID_LEN - 1] == '\0';
}

static bool is_vm_name(const char *text)
{
	size_t len = strnlen(text, HV_NAME_LEN);

	return len > 0 && len < HV_NAME_LEN &&
	       strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") == len;
}

static bool is_ifname(const char *text, bool may_be_empty)
{
	size_t len = strnlen(text, HV_IFNAME_LEN);

	if (len == 0)
		return may_be_empty;
	if (len == HV_IFNAME_LEN)
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr("_-.", text[i]))
			return false;
	return true;
}

static bool is_text(const char *text)
{
	if (!text || !text[0] || !xmlCheckUTF8(BAD_CAST text))
		return false;
	for (; *text; text++)
		if (iscntrl((unsigned char)*text))
			return false;
	return true;
}

/* An absolute path without any of `special`, which would end it where it is used. */
static bool is_path(const char *text, size_t max, const char *special)
{
	return is_text(text) && text[0] == '/' && strlen(text) <= max && !strpbrk(text, special);
}

static int check_copying(const struct hv_vm_spec *spec, struct why *why)
{
	if (!spec->qmp_path != !spec->ram_dir ||
		(!spec->qmp_path && (spec->preload || spec->incoming)))
		return why_set(why, EINVAL,
			"VM %s: it can be copied only with both a second monitor socket and a "
			"directory for its memory",
			spec->name);
	if (spec->qmp_path &&
		!is_path(spec->qmp_path, sizeof(((struct sockaddr_un *)0)->sun_path) - 1, ","))
		return why_set(why, EINVAL,
			"VM %s: a monitor socket's path is absolute, has no comma and at most %zu "
			"bytes",
			spec->name, sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
	if (spec->ram_dir && !is_path(spec->ram_dir, 1000, ","))
		return why_set(why, EINVAL,
			"VM %s: a directory for memory has an absolute path without a comma",
			spec->name);
	if (spec->preload && !is_path(spec->preload, 4000, ": "))
		return why_set(why, EINVAL,
			"VM %s: a preloaded library's path is absolute and has neither colon nor "
			"space",
			spec->name);
	return 0;
}

static int check_nic(const struct hv_vm_spec *spec, size_t i, struct why *why)
{
	const struct hv_nic *nic = &spec->nics[i];

	if (!is_ifname(nic->bridge, false))
		return why_set(
			why, EINVAL, "VM %s: NIC %zu has no valid bridge name", spec->name, i);
	if (!is_ifname(nic->ifname, true))
		return why_set(why, EINVAL,
			"VM %s: NIC %zu: an interface name has at most %d letters, digits or _-.",
			spec->name, i, HV_IFNAME_LEN - 1);
	if (nic->vlan < 1 || nic->vlan > MAX_VLAN)
		return why_set(why, EINVAL, "VM %s: NIC %zu: VLAN %u is not in 1..%d", spec->name,
			i, nic->vlan, MAX_VLAN);
	if (nic->mtu && nic->mtu < MIN_MTU)
		return why_set(why, EINVAL, "VM %s: NIC %zu: MTU %u is below %d", spec->name, i,
			nic->mtu, MIN_MTU);
	if (nic->mac.bytes[0] & 1)
		return why_set(
			why, EINVAL, "VM %s: NIC %zu: its MAC is not unicast", spec->name, i);
	return 0;
}

static int check_spec(const struct hv_vm_spec *spec, struct why *why)
{
	if (!is_vm_name(spec->name))
		return why_set(why, EINVAL,
			"\"%.*s\" is not a VM's name: up to %d characters of [a-z0-9-]",
			HV_NAME_LEN, spec->name, HV_NAME_LEN - 1);
	if (!is_uuid(spec->uuid))
		return why_set(why, EINVAL, "VM %s: its UUID is not one in lower-case text form",
			spec->name);
	if (!is_text(spec->kernel) || !is_text(spec->initrd) || !is_text(spec->cmdline))
		return why_set(why, EINVAL,
			"VM %s: kernel, initrd and command line must be given, as printable text",
			spec->name);
	if (!is_text(spec->role) || !is_text(spec->owner) ||
		(spec->console_log && !is_text(spec->console_log)))
		return why_set(why, EINVAL,
			"VM %s: role, owner and console log must be printable text", spec->name);
	if (spec->memory_kib < 16384 || spec->memory_kib > 1ull << 32)
		return why_set(why, EINVAL, "VM %s: memory of %llu KiB is not in 16 MiB..4 TiB",
			spec->name, (unsigned long long)spec->memory_kib);
	if (spec->layout > HV_LAYOUT)
		return why_set(why, EINVAL,
			"VM %s: a newer edgeplexd gave it its devices (layout %u); install that",
			spec->name, spec->layout);
	if (spec->n_nics > HV_MAX_NICS)
		return why_set(why, EINVAL, "VM %s: more than %d NICs", spec->name, HV_MAX_NICS);
	for (size_t i = 0; i < spec->n_nics; i++) {
		int error = check_nic(spec, i, why);

		if (error)
			return error;
	}
	return check_copying(spec, why);
}

/* ---- the domain --------------------------------------------------------------------------- */

static void put_metadata(struct xml *xml, xmlNodePtr domain, const struct hv_vm_spec *spec)
{
	xmlNodePtr vm = element(xml, element(xml, domain, "metadata", NULL), "vm", NULL);
	xmlNsPtr ns;

	if (xml->failed)
		return;
	ns = xmlNewNs(vm, BAD_CAST HV_METADATA_URI, BAD_CAST "edgeplex");
	if (!ns) {
		xml->failed = true;
		return;
	}
	xmlSetNs(vm, ns);
	attribute(xml, vm, "role", "%s", spec->role);
	attribute(xml, vm, "owner", "%s", spec->owner);
	attribute(xml, vm, "memory", "%llu", (unsigned long long)spec->memory_kib);
	attribute(xml, vm, "layout", "%u", layout_of(spec));
}

static void put_machine(
	struct xml *xml, xmlNodePtr domain, const struct hv_vm_spec *spec, enum hv_accel accel)
{
	xmlNodePtr node;
	char memory[24];

	snprintf(memory, sizeof(memory), "%llu", (unsigned long long)spec->memory_kib);
	node = element(xml, domain, "memory", memory);
	attribute(xml, node, "unit", "KiB");
	element(xml, domain, "vcpu", "1");

	node = element(xml, domain, "os", NULL);
	attribute(xml, element(xml, node, "type", "hvm"), "machine", MACHINE);
	element(xml, node, "kernel", spec->kernel);
	element(xml, node, "initrd", spec->initrd);
	element(xml, node, "cmdline", spec->cmdline);

	node = element(xml, domain, "features", NULL);
	element(xml, node, "acpi", NULL);
	if (accel == HV_ACCEL_TCG) {
		xmlNodePtr cache =
			element(xml, element(xml, node, "tcg", NULL), "tb-cache", TB_CACHE_MIB);

		attribute(xml, cache, "unit", "MiB");
	}
	leaf(xml, domain, "cpu", "mode", accel == HV_ACCEL_KVM ? "host-passthrough" : "maximum");
	leaf(xml, domain, "clock", "offset", "utc");
	/* A VM that ends is gone; whoever wants it starts it again. */
	element(xml, domain, "on_poweroff", "destroy");
	element(xml, domain, "on_reboot", "destroy");
	element(xml, domain, "on_crash", "destroy");
}

/*
 * Checksums and segmentation are done by whoever makes a packet: taps and the user-space switch
 * behind them don't finish what a guest left undone.
 */
static void put_nic_driver(struct xml *xml, xmlNodePtr nic, const struct hv_vm_spec *spec)
{
	xmlNodePtr driver = leaf(xml, nic, "driver", "name", "qemu");

	if (spec->viommu) {
		attribute(xml, driver, "iommu", "on");
		attribute(xml, driver, "ats", "on");
	}
	leaf(xml, driver, "host", "csum", "off", "gso", "off", "tso4", "off", "tso6", "off", "ecn",
		"off", "ufo", "off", "mrg_rxbuf", "off");
	leaf(xml, driver, "guest", "csum", "off", "tso4", "off", "tso6", "off", "ecn", "off", "ufo",
		"off");
}

static void put_nic(struct xml *xml, xmlNodePtr devices, const struct hv_vm_spec *spec, size_t i)
{
	const struct hv_nic *nic = &spec->nics[i];
	xmlNodePtr node = leaf(xml, devices, "interface", "type", "bridge");
	char mac[EP_MAC_STRLEN], ifname[HV_IFNAME_LEN];

	hv_nic_ifname(spec, i, ifname);
	leaf(xml, node, "mac", "address", ep_mac_format(&nic->mac, mac));
	leaf(xml, node, "source", "bridge", nic->bridge);
	attribute(xml, leaf(xml, element(xml, node, "vlan", NULL), "tag"), "id", "%u", nic->vlan);
	leaf(xml, node, "virtualport", "type", "openvswitch");
	leaf(xml, node, "target", "dev", ifname);
	leaf(xml, node, "model", "type", "virtio");
	put_nic_driver(xml, node, spec);
	if (nic->mtu)
		attribute(xml, element(xml, node, "mtu", NULL), "size", "%u", nic->mtu);
	leaf(xml, node, "rom", "enabled", "no"); /* nothing boots from the network */
}

static void put_devices(struct xml *xml, xmlNodePtr domain, const struct hv_vm_spec *spec)
{
	xmlNodePtr devices = element(xml, domain, "devices", NULL), node;

	if (spec->viommu)
		leaf(xml, leaf(xml, devices, "iommu", "model", "intel"), "driver", "caching_mode",
			"on", "iotlb", "on");
	leaf(xml, devices, "controller", "type", "usb", "model", "none");
	leaf(xml, devices, "memballoon", "model", "none");
	for (size_t i = 0; i < spec->n_nics; i++)
		put_nic(xml, devices, spec, i);

	node = leaf(xml, devices, "serial", "type", spec->console_log ? "file" : "pty");
	if (spec->console_log)
		leaf(xml, node, "source", "path", spec->console_log, "append", "off");
	leaf(xml, node, "target", "port", "0");

	/* libvirt chooses the socket's path. */
	node = leaf(xml, devices, "channel", "type", "unix");
	leaf(xml, node, "source", "mode", "bind");
	leaf(xml, node, "target", "type", "virtio", "name", HV_CHANNEL);
}

/* What libvirt has no words for: QEMU's own arguments and environment. */
struct qemu {
	struct xml *xml;
	xmlNodePtr commandline;
	xmlNsPtr ns;
};

static void in_namespace(const struct qemu *qemu, xmlNodePtr node)
{
	if (!qemu->xml->failed)
		xmlSetNs(node, qemu->ns);
}

/* -option VALUE */
__attribute__((format(printf, 3, 4))) static void put_argument(
	const struct qemu *qemu, const char *option, const char *fmt, ...)
{
	char *value = NULL;
	va_list args;

	va_start(args, fmt);
	if (vasprintf(&value, fmt, args) < 0) {
		value = NULL;
		qemu->xml->failed = true;
	}
	va_end(args);
	in_namespace(qemu, leaf(qemu->xml, qemu->commandline, "arg", "value", option));
	in_namespace(qemu, leaf(qemu->xml, qemu->commandline, "arg", "value", value ? value : ""));
	free(value);
}

static void put_environment(const struct qemu *qemu, const char *name, const char *value)
{
	in_namespace(qemu, leaf(qemu->xml, qemu->commandline, "env", "name", name, "value", value));
}

/*
 * Memory of our own takes the place of libvirt's: later arguments win, and libvirt's then is never
 * touched. So it has exactly the size that was asked for. TCG's dirty tracking, and with it QEMU's
 * own migration, is wrong with a multiple of 256 KiB, such as libvirt makes of every size.
 */
static void put_copying(struct xml *xml, xmlNodePtr domain, const struct hv_vm_spec *spec)
{
	struct qemu qemu = {.xml = xml};
	unsigned long long kib = spec->memory_kib;

	if (!spec->qmp_path || xml->failed)
		return;
	qemu.ns = xmlNewNs(domain, BAD_CAST QEMU_URI, BAD_CAST "qemu");
	if (!qemu.ns) {
		xml->failed = true;
		return;
	}
	qemu.commandline = element(xml, domain, "commandline", NULL);
	in_namespace(&qemu, qemu.commandline);
	put_argument(&qemu, "-object",
		"memory-backend-file,id=" RAM_ID ",size=%lluK,mem-path=%s,share=on", kib,
		spec->ram_dir);
	/* Nobody reads the description of the saved state that QEMU appends by default. */
	put_argument(&qemu, "-machine", "memory-backend=" RAM_ID ",suppress-vmdesc=on");
	put_argument(&qemu, "-m", "size=%lluk", kib);
	put_argument(&qemu, "-qmp", "unix:%s,server=on,wait=off", spec->qmp_path);
	/*
	 * Whoever copies a VM tells the switch where it is. A guest that announces its NICs stops
	 * them for it, ten times within half a second.
	 */
	if (layout_of(spec) >= 2)
		put_argument(&qemu, "-global", "virtio-net-device.guest_announce=off");
	if (spec->incoming)
		put_argument(&qemu, "-incoming", "defer");
	if (spec->preload) {
		put_environment(&qemu, "LD_PRELOAD", spec->preload);
		put_environment(&qemu, "EDGEPLEX_WP_RAM", spec->ram_dir);
	}
}

char *hv_vm_xml(const struct hv_vm_spec *spec, enum hv_accel accel, struct why *why)
{
	struct xml xml = {.failed = false};
	xmlNodePtr domain;
	xmlBufferPtr buffer;
	xmlDocPtr doc;
	char *text = NULL;

	if (check_spec(spec, why))
		return NULL;
	doc = xmlNewDoc(BAD_CAST "1.0");
	domain = doc ? xmlNewNode(NULL, BAD_CAST "domain") : NULL;
	buffer = xmlBufferCreate();
	if (!domain || !buffer) {
		xml.failed = true;
	} else {
		xmlDocSetRootElement(doc, domain);
		attribute(&xml, domain, "type", accel == HV_ACCEL_KVM ? "kvm" : "qemu");
		element(&xml, domain, "name", spec->name);
		element(&xml, domain, "uuid", spec->uuid);
		put_metadata(&xml, domain, spec);
		put_machine(&xml, domain, spec, accel);
		put_devices(&xml, domain, spec);
		put_copying(&xml, domain, spec);
	}
	if (!xml.failed && xmlNodeDump(buffer, doc, domain, 0, 1) > 0)
		text = strdup((const char *)xmlBufferContent(buffer));
	if (!text)
		why_set(why, ENOMEM, "out of memory");
	xmlBufferFree(buffer);
	if (doc)
		xmlFreeDoc(doc);
	return text;
}

void hv_nic_ifname(const struct hv_vm_spec *spec, size_t i, char ifname[HV_IFNAME_LEN])
{
	uint64_t hash = 0xcbf29ce484222325; /* FNV-1a: the whole UUID counts */

	if (spec->nics[i].ifname[0]) {
		snprintf(ifname, HV_IFNAME_LEN, "%s", spec->nics[i].ifname);
		return;
	}
	for (const char *c = spec->uuid; *c; c++)
		hash = (hash ^ (unsigned char)*c) * 0x100000001b3;
	hash ^= hash >> 40;
	snprintf(ifname, HV_IFNAME_LEN, "ep%010llx-%zu", (unsigned long long)hash & 0xffffffffff,
		i % 10);
}

/* ---- reading what libvirt says ------------------------------------------------------------ */

static void copy_attribute(xmlNodePtr node, const char *name, char *buf, size_t size)
{
	xmlChar *value = xmlGetProp(node, BAD_CAST name);

	snprintf(buf, size, "%s", value ? (const char *)value : "");
	xmlFree(value);
}

static xmlDocPtr read_document(const char *text)
{
	return xmlReadMemory(text, (int)strlen(text), "libvirt.xml", NULL,
		XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
}

bool hv_metadata_read(const char *text, struct hv_vm *vm)
{
	xmlDocPtr doc = read_document(text);
	xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;
	bool found = root && xmlStrEqual(root->name, BAD_CAST "vm");
	char memory[24], layout[12];

	if (found) {
		copy_attribute(root, "role", vm->role, sizeof(vm->role));
		copy_attribute(root, "owner", vm->owner, sizeof(vm->owner));
		copy_attribute(root, "memory", memory, sizeof(memory));
		vm->memory_kib = strtoull(memory, NULL, 10);
		copy_attribute(root, "layout", layout, sizeof(layout));
		vm->layout = layout[0] ? (unsigned)strtoul(layout, NULL, 10) : 1;
	}
	if (doc)
		xmlFreeDoc(doc);
	return found;
}

static xmlNodePtr child(xmlNodePtr parent, const char *name)
{
	for (xmlNodePtr node = parent ? parent->children : NULL; node; node = node->next)
		if (node->type == XML_ELEMENT_NODE && xmlStrEqual(node->name, BAD_CAST name))
			return node;
	return NULL;
}

static bool attribute_is(xmlNodePtr node, const char *name, const char *wanted)
{
	xmlChar *value = xmlGetProp(node, BAD_CAST name);
	bool is = value && xmlStrEqual(value, BAD_CAST wanted);

	xmlFree(value);
	return is;
}

/* Does a <guest> of the capabilities offer KVM for our architecture? */
static bool offers_kvm(xmlNodePtr capabilities)
{
	for (xmlNodePtr guest = capabilities->children; guest; guest = guest->next) {
		xmlNodePtr arch =
			xmlStrEqual(guest->name, BAD_CAST "guest") ? child(guest, "arch") : NULL;

		if (!arch || !attribute_is(arch, "name", "x86_64"))
			continue;
		for (xmlNodePtr domain = arch->children; domain; domain = domain->next)
			if (xmlStrEqual(domain->name, BAD_CAST "domain") &&
				attribute_is(domain, "type", "kvm"))
				return true;
	}
	return false;
}

char *hv_capabilities_cpu(const char *capabilities, bool *kvm)
{
	xmlDocPtr doc = read_document(capabilities);
	xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;
	xmlNodePtr cpu = child(child(root, "host"), "cpu");
	xmlBufferPtr buffer = xmlBufferCreate();
	char *text = NULL;

	*kvm = root && offers_kvm(root);
	if (cpu && buffer && xmlNodeDump(buffer, doc, cpu, 0, 0) > 0)
		text = strdup((const char *)xmlBufferContent(buffer));
	if (buffer)
		xmlBufferFree(buffer);
	if (doc)
		xmlFreeDoc(doc);
	return text;
}

bool hv_cpu_virtualizes(const char *cpu)
{
	xmlDocPtr doc = read_document(cpu);
	xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;
	bool found = false;

	for (xmlNodePtr node = root ? root->children : NULL; node; node = node->next)
		if (xmlStrEqual(node->name, BAD_CAST "feature") &&
			(attribute_is(node, "name", "vmx") || attribute_is(node, "name", "svm")) &&
			!attribute_is(node, "policy", "disable") &&
			!attribute_is(node, "policy", "forbid"))
			found = true;
	if (doc)
		xmlFreeDoc(doc);
	return found;
}

/* ---- copying ------------------------------------------------------------------------------ */

#define QEMU_RELEASES 1000 /* versions that differ below this are of one series */

bool hv_can_copy(
	const struct hv_server_info *from, const struct hv_server_info *to, struct why *why)
{
	const unsigned long a = from->qemu_version / QEMU_RELEASES;
	const unsigned long b = to->qemu_version / QEMU_RELEASES;

	if (a != b) {
		why_set(why, EXDEV,
			"QEMU is %lu.%lu on the first and %lu.%lu on the second, whose machine "
			"is another; give both the same version",
			a / 1000, a % 1000, b / 1000, b % 1000);
		return false;
	}
	if (from->accel != to->accel) {
		why_set(why, EXDEV,
			"its processor is %s on the first and would be %s on the second; only "
			"servers alike can exchange running VMs",
			from->accel == HV_ACCEL_KVM ? "the machine's (KVM)" : "emulated",
			to->accel == HV_ACCEL_KVM ? "the machine's (KVM)" : "emulated");
		return false;
	}
	return true;
}
