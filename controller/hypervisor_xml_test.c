/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <libxml/parser.h>
#include <libxml/xpath.h>
#include <libxml/xpathInternals.h>

#include "controller/hypervisor_xml.h"

#define UUID "7a1c7c7e-6d0f-4f0e-9a53-1f0a2b3c4d01"
#define OTHER_UUID "7a1c7c7e-6d0f-4f0e-9a53-1f0a2b3c4d02"

static struct hv_vm_spec sample(void)
{
	struct hv_vm_spec spec = {
		.name = "pvm-green-a",
		.uuid = UUID,
		.role = "pvm",
		.owner = "port/green-a",
		.memory_kib = 131072,
		.kernel = "/images/vmlinuz",
		.initrd = "/images/initramfs.img",
		.cmdline = "console=ttyS0 edgeplex.name=green-a",
		.viommu = true,
		.n_nics = 2,
		.nics = {{.bridge = "br0", .vlan = 101, .mtu = 1500},
			{.bridge = "br0", .vlan = 102, .mtu = 1600, .ifname = "green-core"}},
	};

	assert_int_equal(ep_mac_parse("02:ed:00:00:02:01", &spec.nics[0].mac), 0);
	assert_int_equal(ep_mac_parse("02:ed:00:00:00:01", &spec.nics[1].mac), 0);
	return spec;
}

/* The text at an XPath in a document, or "" if there is nothing there. */
static void at(const char *xml, const char *path, char *buf, size_t size)
{
	xmlDocPtr doc = xmlReadMemory(xml, (int)strlen(xml), "test.xml", NULL, 0);
	xmlXPathContextPtr context;
	xmlXPathObjectPtr object;

	assert_non_null(doc);
	context = xmlXPathNewContext(doc);
	xmlXPathRegisterNs(context, BAD_CAST "ep", BAD_CAST HV_METADATA_URI);
	xmlXPathRegisterNs(
		context, BAD_CAST "qemu", BAD_CAST "http://libvirt.org/schemas/domain/qemu/1.0");
	object = xmlXPathEvalExpression(BAD_CAST path, context);
	assert_non_null(object);
	buf[0] = '\0';
	if (object->nodesetval && object->nodesetval->nodeNr > 0) {
		xmlChar *text = xmlNodeGetContent(object->nodesetval->nodeTab[0]);

		snprintf(buf, size, "%s", (const char *)text);
		xmlFree(text);
	}
	xmlXPathFreeObject(object);
	xmlXPathFreeContext(context);
	xmlFreeDoc(doc);
}

static void expect(const char *xml, const char *path, const char *value)
{
	char text[512];

	at(xml, path, text, sizeof(text));
	if (strcmp(text, value) != 0)
		fail_msg("%s is \"%s\", not \"%s\"", path, text, value);
}

static void test_domain(void **state)
{
	struct hv_vm_spec spec = sample();
	char *xml = hv_vm_xml(&spec, HV_ACCEL_TCG, NULL);

	(void)state;
	assert_non_null(xml);
	expect(xml, "/domain/@type", "qemu");
	expect(xml, "/domain/name", "pvm-green-a");
	expect(xml, "/domain/uuid", UUID);
	expect(xml, "/domain/metadata/ep:vm/@role", "pvm");
	expect(xml, "/domain/metadata/ep:vm/@owner", "port/green-a");
	expect(xml, "/domain/metadata/ep:vm/@memory", "131072");
	expect(xml, "/domain/metadata/ep:vm/@layout", "2");
	expect(xml, "/domain/memory", "131072");
	expect(xml, "/domain/memory/@unit", "KiB");
	expect(xml, "/domain/os/type/@machine", "pc-q35-7.2");
	expect(xml, "/domain/os/cmdline", "console=ttyS0 edgeplex.name=green-a");
	expect(xml, "/domain/cpu/@mode", "maximum");
	expect(xml, "/domain/features/tcg/tb-cache", "24");
	expect(xml, "/domain/devices/iommu/driver/@caching_mode", "on");
	expect(xml, "/domain/devices/interface[1]/mac/@address", "02:ed:00:00:02:01");
	expect(xml, "/domain/devices/interface[1]/vlan/tag/@id", "101");
	expect(xml, "/domain/devices/interface[1]/virtualport/@type", "openvswitch");
	expect(xml, "/domain/devices/interface[1]/driver/@iommu", "on");
	expect(xml, "/domain/devices/interface[1]/driver/host/@csum", "off");
	expect(xml, "/domain/devices/interface[1]/driver/guest/@csum", "off");
	expect(xml, "/domain/devices/interface[2]/target/@dev", "green-core");
	expect(xml, "/domain/devices/interface[2]/mtu/@size", "1600");
	expect(xml, "/domain/devices/memballoon/@model", "none");
	expect(xml, "/domain/devices/controller[@type='usb']/@model", "none");
	expect(xml, "/domain/devices/serial/@type", "pty");
	expect(xml, "/domain/devices/channel/target/@name", HV_CHANNEL);
	expect(xml, "/domain/on_reboot", "destroy");
	free(xml);
}

static void test_variants(void **state)
{
	struct hv_vm_spec spec = sample();
	char *xml;

	(void)state;
	spec.viommu = false;
	spec.console_log = "/var/log/libvirt/green-a.log";
	spec.nics[0].mtu = 0;
	xml = hv_vm_xml(&spec, HV_ACCEL_KVM, NULL);
	assert_non_null(xml);
	expect(xml, "/domain/@type", "kvm");
	expect(xml, "/domain/cpu/@mode", "host-passthrough");
	expect(xml, "/domain/features/tcg", "");
	expect(xml, "/domain/devices/iommu/@model", "");
	expect(xml, "/domain/devices/interface[1]/driver/@iommu", "");
	expect(xml, "/domain/devices/interface[1]/mtu/@size", "");
	expect(xml, "/domain/devices/serial/@type", "file");
	expect(xml, "/domain/devices/serial/source/@path", "/var/log/libvirt/green-a.log");
	free(xml);
}

/* A VM that hostd can copy, and the one that it is copied to. */
static void test_copying(void **state)
{
	struct hv_vm_spec spec = sample();
	char *xml = hv_vm_xml(&spec, HV_ACCEL_TCG, NULL);

	(void)state;
	assert_non_null(xml);
	expect(xml, "/domain/qemu:commandline/qemu:arg[1]/@value", "");
	free(xml);

	spec.memory_kib = 131080;
	spec.qmp_path = "/run/edgeplex/qmp/a.sock";
	spec.ram_dir = "/run/edgeplex/ram";
	xml = hv_vm_xml(&spec, HV_ACCEL_TCG, NULL);
	assert_non_null(xml);
	expect(xml, "/domain/qemu:commandline/qemu:arg[1]/@value", "-object");
	expect(xml, "/domain/qemu:commandline/qemu:arg[2]/@value",
		"memory-backend-file,id=edgeplex.ram,size=131080K,mem-path=/run/edgeplex/ram,"
		"share=on");
	expect(xml, "/domain/qemu:commandline/qemu:arg[4]/@value",
		"memory-backend=edgeplex.ram,suppress-vmdesc=on");
	expect(xml, "/domain/qemu:commandline/qemu:arg[6]/@value", "size=131080k");
	expect(xml, "/domain/qemu:commandline/qemu:arg[7]/@value", "-qmp");
	expect(xml, "/domain/qemu:commandline/qemu:arg[8]/@value",
		"unix:/run/edgeplex/qmp/a.sock,server=on,wait=off");
	expect(xml, "/domain/qemu:commandline/qemu:arg[9]/@value", "-global");
	expect(xml, "/domain/qemu:commandline/qemu:arg[10]/@value",
		"virtio-net-device.guest_announce=off");
	expect(xml, "/domain/qemu:commandline/qemu:arg[11]/@value", "");
	expect(xml, "/domain/qemu:commandline/qemu:env/@name", "");
	free(xml);

	spec.preload = "/usr/lib/libedgeplex-wp.so";
	spec.incoming = true;
	xml = hv_vm_xml(&spec, HV_ACCEL_TCG, NULL);
	assert_non_null(xml);
	expect(xml, "/domain/qemu:commandline/qemu:arg[11]/@value", "-incoming");
	expect(xml, "/domain/qemu:commandline/qemu:arg[12]/@value", "defer");
	expect(xml, "/domain/qemu:commandline/qemu:env[@name='LD_PRELOAD']/@value",
		"/usr/lib/libedgeplex-wp.so");
	expect(xml, "/domain/qemu:commandline/qemu:env[@name='EDGEPLEX_WP_RAM']/@value",
		"/run/edgeplex/ram");
	free(xml);
}

static void refuse(const struct hv_vm_spec *spec, const char *words)
{
	struct why why = {""};

	assert_null(hv_vm_xml(spec, HV_ACCEL_TCG, &why));
	if (!strstr(why.text, words))
		fail_msg("\"%s\" doesn't say \"%s\"", why.text, words);
}

/* A copy has the devices of the VM that it is of, whatever new VMs get. */
static void test_layouts(void **state)
{
	struct hv_vm_spec spec = sample();
	char *xml;

	(void)state;
	spec.qmp_path = "/run/edgeplex/qmp/a.sock";
	spec.ram_dir = "/run/edgeplex/ram";
	spec.layout = 1;
	xml = hv_vm_xml(&spec, HV_ACCEL_TCG, NULL);
	assert_non_null(xml);
	expect(xml, "/domain/metadata/ep:vm/@layout", "1");
	expect(xml, "/domain/qemu:commandline/qemu:arg[@value='-global']/@value", "");
	free(xml);
	spec.layout = HV_LAYOUT + 1;
	refuse(&spec, "newer edgeplexd");
}

/* What a customer or an operator may write must stay text. */
static void test_text_stays_text(void **state)
{
	static const char nasty[] = "a</cmdline></os><x y='1'/>&amp;\"'<!-- \xc3\xa4";
	struct hv_vm_spec spec = sample();
	struct hv_vm vm = {.state = HV_VM_RUNNING};
	char *xml, metadata[512];

	(void)state;
	spec.cmdline = nasty;
	spec.owner = nasty;
	xml = hv_vm_xml(&spec, HV_ACCEL_TCG, NULL);
	assert_non_null(xml);
	expect(xml, "/domain/os/cmdline", nasty);
	expect(xml, "/domain/metadata/ep:vm/@owner", nasty);
	expect(xml, "//x", "");
	free(xml);

	snprintf(metadata, sizeof(metadata),
		"<edgeplex:vm xmlns:edgeplex='%s' role='cvm' owner='site/a &lt;&amp;&gt;' "
		"memory='147464'/>",
		HV_METADATA_URI);
	assert_true(hv_metadata_read(metadata, &vm));
	assert_string_equal(vm.role, "cvm");
	assert_string_equal(vm.owner, "site/a <&>");
	assert_int_equal(vm.memory_kib, 147464);
	assert_int_equal(vm.layout, 1);
	snprintf(metadata, sizeof(metadata),
		"<edgeplex:vm xmlns:edgeplex='%s' role='cvm' owner='site/a' layout='2'/>",
		HV_METADATA_URI);
	assert_true(hv_metadata_read(metadata, &vm));
	assert_int_equal(vm.layout, 2);
	assert_false(hv_metadata_read("<other/>", &vm));
	assert_false(hv_metadata_read("<vm", &vm));
	assert_false(hv_metadata_read("", &vm));
}

static void test_bad_specs(void **state)
{
	struct hv_vm_spec spec;
	char path[128];

	(void)state;
	spec = sample();
	snprintf(spec.name, sizeof(spec.name), "../evil");
	refuse(&spec, "not a VM's name");
	spec = sample();
	memset(spec.name, 'a', sizeof(spec.name));
	refuse(&spec, "not a VM's name");
	spec = sample();
	spec.uuid[4] = 'A';
	refuse(&spec, "UUID");
	spec = sample();
	spec.uuid[35] = '\0';
	refuse(&spec, "UUID");
	spec = sample();
	spec.cmdline = "a\nb";
	refuse(&spec, "command line");
	spec = sample();
	spec.cmdline = "\xff\xfe";
	refuse(&spec, "command line");
	spec = sample();
	spec.kernel = NULL;
	refuse(&spec, "kernel");
	spec = sample();
	spec.n_nics = HV_MAX_NICS + 1;
	refuse(&spec, "more than 2 NICs");
	spec = sample();
	spec.nics[1].vlan = 4095;
	refuse(&spec, "VLAN 4095");
	spec = sample();
	spec.nics[1].mtu = 68;
	refuse(&spec, "MTU 68");
	spec = sample();
	spec.nics[0].mac.bytes[0] = 0x03;
	refuse(&spec, "unicast");
	spec = sample();
	spec.nics[0].bridge[0] = '\0';
	refuse(&spec, "bridge");
	spec = sample();
	snprintf(spec.nics[0].ifname, HV_IFNAME_LEN, "a/b");
	refuse(&spec, "interface name");
	spec = sample();
	spec.incoming = true;
	refuse(&spec, "second monitor socket");
	spec = sample();
	spec.preload = "/lib/a.so";
	refuse(&spec, "second monitor socket");
	spec.qmp_path = "/run/a";
	refuse(&spec, "directory for its memory");
	spec.ram_dir = "/run/a,b";
	refuse(&spec, "comma");
	spec.ram_dir = "/run/ram";
	spec.qmp_path = "/run/a,b";
	refuse(&spec, "no comma");
	spec.qmp_path = "a.sock";
	refuse(&spec, "absolute");
	spec.qmp_path = "/run/a";
	spec.preload = "/lib/a.so:/lib/b.so";
	refuse(&spec, "colon");
	spec.preload = NULL;
	spec.qmp_path = path;
	snprintf(path, sizeof(path), "/%0107d", 0);
	refuse(&spec, "107 bytes");
}

static void test_interface_names(void **state)
{
	struct hv_vm_spec spec = sample();
	char first[HV_IFNAME_LEN], again[HV_IFNAME_LEN], second[HV_IFNAME_LEN],
		other[HV_IFNAME_LEN];

	(void)state;
	spec.nics[1].ifname[0] = '\0';
	hv_nic_ifname(&spec, 0, first);
	hv_nic_ifname(&spec, 0, again);
	hv_nic_ifname(&spec, 1, second);
	snprintf(spec.uuid, sizeof(spec.uuid), "%s", OTHER_UUID);
	hv_nic_ifname(&spec, 0, other);
	assert_string_equal(first, again);
	assert_string_not_equal(first, second);
	assert_string_not_equal(first, other);
	assert_in_range(strlen(first), 1, HV_IFNAME_LEN - 1);
}

#define CAPABILITIES(kvm)                                                                    \
	"<capabilities><host><cpu><arch>x86_64</arch><model>EPYC</model>"                    \
	"<feature name='topoext'/></cpu></host>"                                             \
	"<guest><os_type>hvm</os_type><arch name='i686'><domain type='kvm'/></arch></guest>" \
	"<guest><os_type>hvm</os_type><arch name='x86_64'><domain type='qemu'/>" kvm         \
	"</arch></guest></capabilities>"

static void test_accel(void **state)
{
	bool kvm = false;
	char *cpu = hv_capabilities_cpu(CAPABILITIES("<domain type='kvm'/>"), &kvm);

	(void)state;
	assert_non_null(cpu);
	assert_true(kvm);
	expect(cpu, "/cpu/model", "EPYC");
	free(cpu);
	cpu = hv_capabilities_cpu(CAPABILITIES(""), &kvm);
	assert_false(kvm);
	free(cpu);
	assert_null(hv_capabilities_cpu("nonsense", &kvm));
	assert_false(kvm);

	assert_true(hv_cpu_virtualizes(
		"<cpu><model>x</model><feature policy='require' name='svm'/></cpu>"));
	assert_true(hv_cpu_virtualizes("<cpu><feature name='vmx'/></cpu>"));
	assert_false(hv_cpu_virtualizes("<cpu><feature policy='disable' name='svm'/></cpu>"));
	assert_false(hv_cpu_virtualizes("<cpu><model>EPYC</model></cpu>"));
	assert_false(hv_cpu_virtualizes("nonsense"));
}

static void test_servers_alike(void **state)
{
	struct hv_server_info here = {.qemu_version = 7002009, .accel = HV_ACCEL_TCG}, there = here;
	struct why why = {""};

	(void)state;
	assert_true(hv_can_copy(&here, &there, &why));
	there.qemu_version = 7002015;
	assert_true(hv_can_copy(&here, &there, &why));
	assert_string_equal(why.text, "");
	there.qemu_version = 8000000;
	assert_false(hv_can_copy(&here, &there, &why));
	assert_non_null(strstr(why.text, "7.2"));
	assert_non_null(strstr(why.text, "8.0"));
	there = here;
	there.accel = HV_ACCEL_KVM;
	assert_false(hv_can_copy(&here, &there, &why));
	assert_non_null(strstr(why.text, "KVM"));
	assert_false(hv_can_copy(&there, &here, NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_domain),
		cmocka_unit_test(test_variants),
		cmocka_unit_test(test_copying),
		cmocka_unit_test(test_layouts),
		cmocka_unit_test(test_text_stays_text),
		cmocka_unit_test(test_bad_specs),
		cmocka_unit_test(test_interface_names),
		cmocka_unit_test(test_accel),
		cmocka_unit_test(test_servers_alike),
	};

	return cmocka_run_group_tests_name("hypervisor_xml", tests, NULL, NULL);
}
