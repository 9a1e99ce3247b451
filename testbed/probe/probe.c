/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * edgeplex-probe: sends numbered UDP packets at a steady rate, records with the kernel's timestamps
 * when they arrive, and says what was lost, doubled, late, and how long nothing came.
 *
 *   edgeplex-probe send --flow ID,FROM,TO[,EVERY] [--flow ...] --port N [--rate HZ] [--seconds S]
 *   edgeplex-probe receive --port N --file FILE [--seconds S]
 *   edgeplex-probe report FILE [--from NS] [--until NS] [--largest K]
 *
 * A flow has a packet in each, or in each EVERY-th, of the HZ ticks of a second.
 * `send` and `receive` end after --seconds, or by INT or TERM. A receiver then waits until nothing
 * came for a while, so that what is under way still counts. All print JSON.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/net_tstamp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "common/log.h"
#include "testbed/probe/flow_stats.h"
#include "testbed/probe/record.h"

#define NS_PER_S 1000000000ull
#define MAX_FLOWS 16
#define MAX_RATE 100000
#define MAX_SECONDS 86400
#define BATCH 32
#define START_AFTER_NS (10 * NS_PER_S / 1000)
#define QUIET_MS 500  /* a receiver that is to end waits for this much silence */
#define DRAIN_MS 5000 /* but not longer than this */
#define RECEIVE_BUFFER (8 << 20)
#define DEFAULT_LARGEST 10
#define STAMP_DISORDER_NS (NS_PER_S / 10)
#define LATE_NS (60 * NS_PER_S)

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct flow {
	uint32_t id;
	union address from, to;
	unsigned every; /* a packet in each so many ticks */
	int fd;
	uint64_t sent, failed;
};

struct options {
	struct flow flows[MAX_FLOWS];
	size_t n_flows;
	uint16_t port;
	unsigned rate, seconds, bytes;
	const char *file;
	uint64_t from_ns, until_ns;
	unsigned largest;
};

static uint64_t now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Late wake-ups would look like the network's. Not everybody may do this, and it isn't needed. */
static bool become_punctual(void)
{
	const struct sched_param param = {.sched_priority = 1};

	return mlockall(MCL_CURRENT | MCL_FUTURE) == 0 &&
	       sched_setscheduler(0, SCHED_FIFO, &param) == 0;
}

static int print_json(cJSON *json)
{
	char *text = json ? cJSON_PrintUnformatted(json) : NULL;
	int status = text && puts(text) >= 0 && fflush(stdout) == 0 ? 0 : 1;

	if (status)
		log_error("can't print the result: out of memory, or standard output is closed");
	cJSON_free(text);
	cJSON_Delete(json);
	return status;
}

/* ---- addresses ---------------------------------------------------------------------------- */

static socklen_t address_length(const union address *address)
{
	return address->any.sa_family == AF_INET ? sizeof(address->v4) : sizeof(address->v6);
}

static bool parse_address(const char *text, uint16_t port, union address *address)
{
	*address = (union address){0};
	if (inet_pton(AF_INET, text, &address->v4.sin_addr) == 1) {
		address->v4.sin_family = AF_INET;
		address->v4.sin_port = htons(port);
		return true;
	}
	if (inet_pton(AF_INET6, text, &address->v6.sin6_addr) == 1) {
		address->v6.sin6_family = AF_INET6;
		address->v6.sin6_port = htons(port);
		return true;
	}
	return false;
}

/* Reads "ID,FROM,TO" or "ID,FROM,TO,EVERY" but for the port, which is set when it is known. */
static bool parse_flow(const char *text, struct flow *flow)
{
	char from[INET6_ADDRSTRLEN], to[INET6_ADDRSTRLEN];
	unsigned id, every = 1;
	int n = -1, m = -1;

	if (sscanf(text, "%9u,%45[^,],%45[^,]%n,%4u%n", &id, from, to, &n, &every, &m) < 3)
		return false;
	*flow = (struct flow){.id = id, .every = every, .fd = -1};
	return text[m < 0 ? n : m] == '\0' && every > 0 && parse_address(from, 0, &flow->from) &&
	       parse_address(to, 0, &flow->to) &&
	       flow->from.any.sa_family == flow->to.any.sa_family;
}

/* ---- sending ------------------------------------------------------------------------------ */

static int open_flow(struct flow *flow, uint16_t port)
{
	flow->to.v4.sin_port = htons(port); /* where sin6_port is, too */
	flow->fd = socket(flow->to.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (flow->fd >= 0 && bind(flow->fd, &flow->from.any, address_length(&flow->from)) == 0)
		return 0;
	log_error("can't send from the address of flow %" PRIu32 ": %s", flow->id, strerror(errno));
	return 1;
}

static cJSON *sent_json(
	const struct options *options, uint64_t start_ns, uint64_t latest_ns, bool punctual)
{
	cJSON *json = cJSON_CreateObject(), *flows = cJSON_AddArrayToObject(json, "flows");

	cJSON_AddNumberToObject(json, "start_ns", (double)start_ns);
	cJSON_AddNumberToObject(json, "latest_us", (double)latest_ns / 1e3);
	cJSON_AddBoolToObject(json, "punctual", punctual);
	for (size_t i = 0; i < options->n_flows; i++) {
		cJSON *flow = cJSON_CreateObject();

		cJSON_AddNumberToObject(flow, "flow", options->flows[i].id);
		cJSON_AddNumberToObject(flow, "sent", (double)options->flows[i].sent);
		cJSON_AddNumberToObject(flow, "failed", (double)options->flows[i].failed);
		cJSON_AddItemToArray(flows, flow);
	}
	return json;
}

static void send_probe(struct flow *flow, const struct options *options, uint64_t due_ns)
{
	union {
		struct probe_packet packet;
		uint8_t bytes[PROBE_MAX_BYTES];
	} payload = {0};

	probe_write(&payload.packet, flow->id, (uint32_t)(NS_PER_S / options->rate * flow->every),
		flow->sent, due_ns, now_ns(CLOCK_REALTIME));
	/* A number is used up even if the kernel refused it: the receiver will miss it. */
	if (sendto(flow->fd, &payload, options->bytes, 0, &flow->to.any,
		    address_length(&flow->to)) < 0)
		flow->failed++;
	flow->sent++;
}

static int run_send(struct options *options)
{
	const uint64_t interval = NS_PER_S / options->rate;
	bool punctual = become_punctual();
	uint64_t start, latest = 0, offset;
	sigset_t ending;

	for (size_t i = 0; i < options->n_flows; i++)
		if (open_flow(&options->flows[i], options->port))
			return 1;
	sigemptyset(&ending);
	sigaddset(&ending, SIGINT);
	sigaddset(&ending, SIGTERM);
	sigprocmask(SIG_BLOCK, &ending, NULL);

	start = now_ns(CLOCK_MONOTONIC) + START_AFTER_NS;
	offset = now_ns(CLOCK_REALTIME) - now_ns(CLOCK_MONOTONIC);
	for (uint64_t tick = 0; tick < (uint64_t)options->seconds * options->rate; tick++) {
		const uint64_t due = start + tick * interval;
		const struct timespec at = {
			.tv_sec = (time_t)(due / NS_PER_S), .tv_nsec = (long)(due % NS_PER_S)};
		const struct timespec at_once = {0};
		uint64_t now;

		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
			;
		if (sigtimedwait(&ending, NULL, &at_once) > 0)
			break;
		now = now_ns(CLOCK_MONOTONIC);
		if (now - due > latest)
			latest = now - due;
		for (size_t i = 0; i < options->n_flows; i++)
			if (tick % options->flows[i].every == 0)
				send_probe(&options->flows[i], options, due + offset);
	}
	return print_json(sent_json(options, start + offset, latest, punctual));
}

/* ---- reporting ---------------------------------------------------------------------------- */

static void add_quantiles(cJSON *json, const char *name, const struct flow_quantiles *q)
{
	cJSON *object = cJSON_AddObjectToObject(json, name);

	cJSON_AddNumberToObject(object, "p50", (double)q->p50 / 1e6);
	cJSON_AddNumberToObject(object, "p99", (double)q->p99 / 1e6);
	cJSON_AddNumberToObject(object, "p999", (double)q->p999 / 1e6);
	cJSON_AddNumberToObject(object, "max", (double)q->max / 1e6);
}

static cJSON *stats_json(uint32_t flow, const struct flow_stats *stats)
{
	cJSON *json = cJSON_CreateObject(), *gaps;

	cJSON_AddNumberToObject(json, "flow", flow);
	cJSON_AddNumberToObject(json, "expected", (double)stats->expected);
	cJSON_AddNumberToObject(json, "received", (double)stats->received);
	cJSON_AddNumberToObject(json, "lost", (double)stats->lost);
	cJSON_AddNumberToObject(json, "duplicated", (double)stats->duplicated);
	cJSON_AddNumberToObject(json, "reordered", (double)stats->reordered);
	cJSON_AddNumberToObject(json, "first_seq", (double)stats->first_seq);
	cJSON_AddNumberToObject(json, "last_seq", (double)stats->last_seq);
	add_quantiles(json, "gap_ms", &stats->gap_ns);
	add_quantiles(json, "delay_ms", &stats->delay_ns);
	cJSON_AddNumberToObject(json, "sent_gap_max_ms", (double)stats->sent_gap_max_ns / 1e6);
	gaps = cJSON_AddArrayToObject(json, "gaps");
	for (size_t i = 0; i < stats->n_gaps; i++) {
		const struct flow_gap *gap = &stats->gaps[i];
		cJSON *item = cJSON_CreateObject();

		cJSON_AddNumberToObject(item, "at_ns", (double)gap->at_ns);
		cJSON_AddNumberToObject(item, "gap_ms", (double)gap->gap_ns / 1e6);
		cJSON_AddNumberToObject(item, "sent_gap_ms", (double)gap->sent_gap_ns / 1e6);
		cJSON_AddNumberToObject(item, "seq", (double)gap->seq);
		cJSON_AddItemToArray(gaps, item);
	}
	return json;
}

/* The flows that occur, at most MAX_FLOWS; returns how many. */
static size_t list_flows(const struct probe_record *records, size_t n, uint32_t flows[MAX_FLOWS])
{
	size_t found = 0;

	for (size_t i = 0; i < n; i++) {
		size_t j = 0;

		while (j < found && flows[j] != records[i].flow)
			j++;
		if (j == found && found < MAX_FLOWS)
			flows[found++] = records[i].flow;
	}
	return found;
}

/* NULL when memory ran out. */
static cJSON *flows_json(
	const struct probe_record *records, size_t n, const struct options *options)
{
	uint32_t flows[MAX_FLOWS];
	size_t n_flows = list_flows(records, n, flows);
	cJSON *array = cJSON_CreateArray();

	for (size_t i = 0; i < n_flows; i++) {
		struct flow_stats stats;

		if (flow_stats_compute(records, n, flows[i], options->from_ns, options->until_ns,
			    options->largest, &stats) != 0) {
			cJSON_Delete(array);
			return NULL;
		}
		cJSON_AddItemToArray(array, stats_json(flows[i], &stats));
	}
	return array;
}

/* The first record received at `ns` or later, but for the disorder of two processors' stamps. */
static size_t first_received(const struct probe_record *records, size_t n, uint64_t ns)
{
	size_t low = 0, high = n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (records[middle].received_ns + STAMP_DISORDER_NS < ns)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * Only what a window can be about is looked at, so that asking about the last seconds costs the
 * same however long the run has been: nothing arrives before it is due, and what is late arrives
 * within a minute.
 */
static size_t narrow(
	const struct probe_record **records, size_t n, uint64_t from_ns, uint64_t until_ns)
{
	size_t first = first_received(*records, n, from_ns), end = n;

	if (until_ns < UINT64_MAX - LATE_NS)
		end = first_received(*records, n, until_ns + LATE_NS);
	*records += first;
	return end > first ? end - first : 0;
}

/* Takes `head`. */
static int report(const struct options *options, cJSON *head)
{
	int fd = open(options->file, O_RDONLY | O_CLOEXEC), status = 1;
	const struct probe_record *records;
	void *map = NULL;
	struct stat file;
	size_t bytes, n;
	cJSON *flows;

	if (fd < 0 || fstat(fd, &file) < 0) {
		log_error("can't read %s: %s", options->file, strerror(errno));
		goto out;
	}
	/* A receiver may be writing it: whole records only. */
	bytes = (size_t)file.st_size - (size_t)file.st_size % sizeof(struct probe_record);
	if (bytes > 0) {
		map = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
		if (map == MAP_FAILED) {
			map = NULL;
			log_error("can't map %s: %s", options->file, strerror(errno));
			goto out;
		}
	}
	records = map;
	n = bytes / sizeof(*records);
	if (n > 0)
		n = narrow(&records, n, options->from_ns, options->until_ns);
	flows = flows_json(records, n, options);
	if (!flows)
		log_error("out of memory for the report of %s", options->file);
	else
		cJSON_AddItemToObject(head, "flows", flows);
	status = print_json(flows ? head : NULL);
	if (flows)
		head = NULL;
	if (map)
		munmap(map, bytes);
out:
	cJSON_Delete(head);
	if (fd >= 0)
		close(fd);
	return status;
}

/* ---- receiving ---------------------------------------------------------------------------- */

struct receiver {
	int fd, file, signals;
	uint64_t foreign; /* packets that are no probes */
	uint32_t overrun; /* packets that the full socket lost */
};

static int open_receiver(const struct options *options, struct receiver *r)
{
	/* Dual stack: IPv4 packets come in as mapped addresses. */
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(options->port)};
	int on = 1, off = 0, buffer = RECEIVE_BUFFER;
	sigset_t ending;

	*r = (struct receiver){.fd = -1, .file = -1, .signals = -1};
	sigemptyset(&ending);
	sigaddset(&ending, SIGINT);
	sigaddset(&ending, SIGTERM);
	sigprocmask(SIG_BLOCK, &ending, NULL);
	r->signals = signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK);
	r->fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (r->signals < 0 || r->fd < 0 ||
		setsockopt(r->fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) < 0 ||
		setsockopt(r->fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on)) < 0 ||
		setsockopt(r->fd, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof(on)) < 0 ||
		bind(r->fd, (struct sockaddr *)&any, sizeof(any)) < 0) {
		log_error("can't receive on port %u: %s", options->port, strerror(errno));
		return 1;
	}
	/* Above the system's limit only for root; overruns are told anyway. */
	if (setsockopt(r->fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer)) < 0)
		setsockopt(r->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
	r->file = open(options->file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (r->file < 0) {
		log_error("can't write %s: %s", options->file, strerror(errno));
		return 1;
	}
	return 0;
}

static uint64_t read_controls(struct receiver *r, struct msghdr *message)
{
	uint64_t received_ns = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		struct timespec stamp;

		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_TIMESTAMPNS) {
			memcpy(&stamp, CMSG_DATA(c), sizeof(stamp));
			received_ns = (uint64_t)stamp.tv_sec * NS_PER_S + (uint64_t)stamp.tv_nsec;
		} else if (c->cmsg_type == SO_RXQ_OVFL) {
			memcpy(&r->overrun, CMSG_DATA(c), sizeof(r->overrun));
		}
	}
	return received_ns;
}

/* Takes what is there. Returns how many packets, or -1 when they can't be written. */
static int receive_batch(struct receiver *r)
{
	static uint8_t payloads[BATCH][PROBE_MIN_BYTES];
	static uint8_t controls[BATCH][256];
	struct probe_record records[BATCH];
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];
	size_t n_records = 0;
	int n;

	for (int i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){payloads[i], sizeof(payloads[i])};
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i],
			.msg_iovlen = 1,
			.msg_control = controls[i],
			.msg_controllen = sizeof(controls[i])};
	}
	n = recvmmsg(r->fd, messages, BATCH, MSG_DONTWAIT, NULL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	for (int i = 0; i < n; i++) {
		uint64_t received_ns = read_controls(r, &messages[i].msg_hdr);

		if (probe_read(payloads[i], messages[i].msg_len, received_ns, &records[n_records]))
			n_records++;
		else
			r->foreign++;
	}
	if (write(r->file, records, n_records * sizeof(records[0])) !=
		(ssize_t)(n_records * sizeof(records[0])))
		return -1;
	return n;
}

static int receive_all(struct receiver *r, unsigned seconds)
{
	uint64_t end = now_ns(CLOCK_MONOTONIC) + seconds * NS_PER_S;
	struct pollfd fds[2] = {
		{.fd = r->fd, .events = POLLIN}, {.fd = r->signals, .events = POLLIN}};
	bool ending = false;

	for (;;) {
		uint64_t now = now_ns(CLOCK_MONOTONIC);
		int wait_ms = now >= end ? 0 : (int)((end - now + 999999) / 1000000), n;

		if (wait_ms == 0 && ending)
			return 0; /* packets come on and on: somebody is still sending */
		if (ending && wait_ms > QUIET_MS)
			wait_ms = QUIET_MS;
		n = poll(fds, ending ? 1 : 2, wait_ms);
		if (n < 0 && errno != EINTR)
			return -1;
		if (n == 0 && ending)
			return 0;
		if (n == 0 || (!ending && fds[1].revents)) {
			ending = true;
			end = now_ns(CLOCK_MONOTONIC) + DRAIN_MS * (NS_PER_S / 1000);
		}
		if (receive_batch(r) < 0)
			return -1;
	}
}

static int run_receive(struct options *options)
{
	struct receiver r;
	int status = open_receiver(options, &r);

	if (status == 0) {
		become_punctual();
		/* Whoever started us may begin to send. */
		puts("{\"listening\":true}");
		fflush(stdout);
		if (receive_all(&r, options->seconds) < 0) {
			log_error("receiving failed, or %s can't be written: %s", options->file,
				strerror(errno));
			status = 1;
		}
	}
	if (status == 0) {
		cJSON *head = cJSON_CreateObject();

		cJSON_AddNumberToObject(head, "foreign", (double)r.foreign);
		cJSON_AddNumberToObject(head, "overrun", r.overrun);
		status = report(options, head);
	}
	if (r.fd >= 0)
		close(r.fd);
	if (r.file >= 0)
		close(r.file);
	if (r.signals >= 0)
		close(r.signals);
	return status;
}

/* ---- the command line --------------------------------------------------------------------- */

static int usage(void)
{
	fputs("usage: edgeplex-probe send --flow ID,FROM,TO[,EVERY] [--flow ...] --port N\n"
	      "                           [--rate HZ] [--seconds S] [--bytes N]\n"
	      "       edgeplex-probe receive --port N --file FILE [--seconds S]\n"
	      "       edgeplex-probe report FILE [--from NS] [--until NS] [--largest K]\n",
		stderr);
	return 2;
}

static bool parse_number(const char *text, uint64_t low, uint64_t high, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 10);
	return errno == 0 && end != text && *end == '\0' && text[0] != '-' && *value >= low &&
	       *value <= high;
}

static bool parse_option(struct options *options, int option, const char *text)
{
	uint64_t value = 0;
	bool good;

	switch (option) {
	case 'f':
		return options->n_flows < MAX_FLOWS &&
		       parse_flow(text, &options->flows[options->n_flows]) && ++options->n_flows;
	case 'o':
		options->file = text;
		return true;
	case 'p':
		good = parse_number(text, 1, UINT16_MAX, &value);
		options->port = (uint16_t)value;
		return good;
	case 'r':
		good = parse_number(text, 1, MAX_RATE, &value);
		options->rate = (unsigned)value;
		return good;
	case 's':
		good = parse_number(text, 1, MAX_SECONDS, &value);
		options->seconds = (unsigned)value;
		return good;
	case 'b':
		good = parse_number(text, PROBE_MIN_BYTES, PROBE_MAX_BYTES, &value);
		options->bytes = (unsigned)value;
		return good;
	case 'k':
		good = parse_number(text, 0, FLOW_MAX_GAPS, &value);
		options->largest = (unsigned)value;
		return good;
	case 'F':
		return parse_number(text, 0, UINT64_MAX, &options->from_ns);
	case 'U':
		return parse_number(text, 0, UINT64_MAX, &options->until_ns);
	default:
		return false;
	}
}

/* A packet tells its flow's interval in 32 bits. */
static bool intervals_fit(const struct options *options)
{
	for (size_t i = 0; i < options->n_flows; i++)
		if (NS_PER_S / options->rate * options->flows[i].every > UINT32_MAX)
			return false;
	return true;
}

int main(int argc, char **argv)
{
	static const struct option long_options[] = {
		{"flow", required_argument, NULL, 'f'},
		{"port", required_argument, NULL, 'p'},
		{"rate", required_argument, NULL, 'r'},
		{"seconds", required_argument, NULL, 's'},
		{"bytes", required_argument, NULL, 'b'},
		{"file", required_argument, NULL, 'o'},
		{"from", required_argument, NULL, 'F'},
		{"until", required_argument, NULL, 'U'},
		{"largest", required_argument, NULL, 'k'},
		{NULL, 0, NULL, 0},
	};
	struct options options = {
		.rate = 1000,
		.seconds = 60,
		.bytes = 64,
		.until_ns = UINT64_MAX,
		.largest = DEFAULT_LARGEST,
	};
	const char *verb = argc > 1 ? argv[1] : "";
	int option;

	log_init("edgeplex-probe");
	if (argc < 2)
		return usage();
	while ((option = getopt_long(argc - 1, argv + 1, "", long_options, NULL)) != -1)
		if (!parse_option(&options, option, optarg))
			return usage();
	optind++; /* it counts without the verb */
	if (strcmp(verb, "send") == 0 && options.n_flows && options.port && optind == argc &&
		intervals_fit(&options))
		return run_send(&options);
	if (strcmp(verb, "receive") == 0 && options.port && options.file && optind == argc)
		return run_receive(&options);
	if (strcmp(verb, "report") == 0 && optind == argc - 1) {
		options.file = argv[optind];
		return report(&options, cJSON_CreateObject());
	}
	return usage();
}
