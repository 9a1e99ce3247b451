/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/worker.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_interrupts.h>
#include <rte_lcore.h>

#include "common/log.h"
#include "dataplane/fib.h"
#include "dataplane/port.h"
#include "dataplane/rehearsal.h"

#define TICK_MS 1000u
#define SPIN_US 10u   /* of empty polls before going to sleep: what waking up costs, about */
#define TAP_EVERY 16u /* under load, TAPs are read every so many rounds */
#define NAP_MS 5      /* for devices that can't wake us */

struct worker {
	struct forwarder *fwd;
	struct fib_reader *reader;
	uint64_t next_tick_ms;
	uint64_t turns;
	unsigned rehearsals; /* done so far, see struct forwarder */
	struct rehearsal rehearsal;
	/* Registrations that rte_epoll_wait() refers to. */
	struct rte_epoll_event tap_events[MAX_PORTS], socket_events[MAX_PORTS], wake_event;
	bool can_be_woken;
};

static unsigned receive(struct worker *worker)
{
	struct engine *engine = &worker->fwd->engine;
	unsigned total = 0;

	for (unsigned port = 0; port < engine->n_ports; port++) {
		struct rte_mbuf *burst[ENGINE_BURST];
		unsigned n = port_receive(worker->fwd, port, burst, ENGINE_BURST);

		for (unsigned i = 0; i < n; i++)
			rte_prefetch0(rte_pktmbuf_mtod(burst[i], void *));
		for (unsigned i = 0; i < n; i++)
			rehearsal_input(&worker->rehearsal, engine, port, burst[i]);
		engine->ports[port].counters.rx_empty += n < ENGINE_BURST;
		total += n;
	}
	return total;
}

/* What the kernel sends goes out as it is. */
static unsigned read_taps(struct worker *worker)
{
	struct engine *engine = &worker->fwd->engine;
	unsigned total = 0;

	for (unsigned port = 0; port < engine->n_ports; port++) {
		for (unsigned i = 0; i < ENGINE_BURST; i++) {
			struct rte_mbuf *m = engine_alloc(engine, port);
			ssize_t n;

			if (!m)
				break;
			n = read(worker->fwd->devices[port].tap_fd, rte_pktmbuf_mtod(m, void *),
				rte_pktmbuf_tailroom(m));
			if (n < (ssize_t)sizeof(struct rte_ether_hdr)) {
				rte_pktmbuf_free(m);
				break;
			}
			m->data_len = (uint16_t)n;
			m->pkt_len = (uint32_t)n;
			engine->ports[port].counters.from_tap++;
			if (engine_is_mute(engine))
				engine_drop(engine, port, m, DROP_mute);
			else
				engine_send(engine, port, m);
			total++;
		}
	}
	return total;
}

static uint64_t count_bytes(struct rte_mbuf *const *frames, unsigned n)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < n; i++)
		bytes += frames[i]->pkt_len;
	return bytes;
}

static void transmit(struct worker *worker, unsigned index)
{
	struct engine *engine = &worker->fwd->engine;
	struct port *port = &engine->ports[index];
	/* Taken before: the driver may free a buffer as soon as it has it. */
	uint64_t bytes = count_bytes(port->tx, port->n_tx);
	unsigned sent = 0, n;

	do {
		n = port_send(worker->fwd, index, port->tx + sent, port->n_tx - sent);
		sent += n;
	} while (n > 0 && sent < port->n_tx);
	port->counters.tx_packets += sent;
	port->counters.tx_bytes += bytes - count_bytes(port->tx + sent, port->n_tx - sent);
	for (unsigned i = sent; i < port->n_tx; i++)
		engine_drop(engine, index, port->tx[i], DROP_tx_full);
	port->n_tx = 0;
}

static void punt(struct worker *worker, unsigned index)
{
	struct engine *engine = &worker->fwd->engine;
	struct port *port = &engine->ports[index];

	for (unsigned i = 0; i < port->n_punt; i++) {
		struct rte_mbuf *m = port->punt[i];

		if (write(worker->fwd->devices[index].tap_fd, rte_pktmbuf_mtod(m, void *),
			    m->data_len) == m->data_len) {
			port->counters.punted++;
			rte_pktmbuf_free(m);
		} else {
			engine_drop(engine, index, m, DROP_tap_full);
		}
	}
	port->n_punt = 0;
}

static void flush(struct worker *worker)
{
	for (unsigned i = 0; i < worker->fwd->engine.n_ports; i++) {
		if (worker->fwd->engine.ports[i].n_tx > 0)
			transmit(worker, i);
		punt(worker, i);
	}
}

/* If somebody has asked for it. The queues are empty here. */
static void rehearse(struct worker *worker)
{
	struct forwarder *fwd = worker->fwd;
	unsigned asked = atomic_load_explicit(&fwd->rehearsals_asked, memory_order_acquire);

	if (asked == worker->rehearsals)
		return;
	atomic_store_explicit(&fwd->rehearsed, rehearsal_run(&worker->rehearsal, &fwd->engine),
		memory_order_relaxed);
	worker->rehearsals = asked;
	atomic_store_explicit(&fwd->rehearsals_done, asked, memory_order_release);
}

static unsigned round_of_work(struct worker *worker, bool taps)
{
	struct engine *engine = &worker->fwd->engine;
	unsigned n;

	fib_reader_quiescent(worker->reader);
	/* Nobody else writes it. */
	atomic_store_explicit(&worker->fwd->turns, ++worker->turns, memory_order_relaxed);
	engine_begin(engine, now_ms());
	rehearse(worker);
	n = receive(worker);
	if (taps)
		n += read_taps(worker);
	if (engine->now_ms >= worker->next_tick_ms) {
		engine_tick(engine);
		rehearsal_tick(&worker->rehearsal);
		worker->next_tick_ms = engine->now_ms + TICK_MS;
	}
	flush(worker);
	return n;
}

static void set_interrupts(struct worker *worker, bool on)
{
	for (unsigned i = 0; i < worker->fwd->engine.n_ports; i++) {
		const struct port_device *device = &worker->fwd->devices[i];

		if (!device->interrupts)
			continue;
		if (on)
			rte_eth_dev_rx_intr_enable(device->id, 0);
		else
			rte_eth_dev_rx_intr_disable(device->id, 0);
	}
}

/* Until a frame, a TAP or the next tick wakes us. */
static void sleep_until_work(struct worker *worker)
{
	struct forwarder *fwd = worker->fwd;
	struct rte_epoll_event events[2 * MAX_PORTS + 1];
	eventfd_t woken;
	uint64_t now;
	int timeout;

	set_interrupts(worker, true);
	/* A frame that came in before the interrupt was armed would not wake us. */
	if (round_of_work(worker, true) == 0) {
		now = fwd->engine.now_ms;
		timeout = worker->next_tick_ms > now ? (int)(worker->next_tick_ms - now) : 0;
		if (!worker->can_be_woken && timeout > NAP_MS)
			timeout = NAP_MS;
		fib_reader_offline(worker->reader);
		atomic_store_explicit(&fwd->sleeping, true, memory_order_relaxed);
		rte_epoll_wait(RTE_EPOLL_PER_THREAD, events, RTE_DIM(events), timeout);
		atomic_store_explicit(&fwd->sleeping, false, memory_order_relaxed);
		/* Whether it was this that woke us doesn't matter. */
		eventfd_read(fwd->wake_fd, &woken);
		fib_reader_online(worker->reader);
	}
	set_interrupts(worker, false);
}

static void watch(struct rte_epoll_event *event, int fd)
{
	event->epdata.event = EPOLLIN;
	if (rte_epoll_ctl(RTE_EPOLL_PER_THREAD, EPOLL_CTL_ADD, fd, event) != 0)
		log_error("can't watch descriptor %d: %s", fd, strerror(errno));
}

static void set_up_sleep(struct worker *worker)
{
	struct forwarder *fwd = worker->fwd;

	worker->can_be_woken = true;
	for (unsigned i = 0; i < fwd->engine.n_ports; i++) {
		struct port_device *device = &fwd->devices[i];

		watch(&worker->tap_events[i], device->tap_fd);
		if (device->socket_fd >= 0) {
			watch(&worker->socket_events[i], device->socket_fd);
			continue;
		}
		if (device->interrupts &&
			rte_eth_dev_rx_intr_ctl_q(
				device->id, 0, RTE_EPOLL_PER_THREAD, RTE_INTR_EVENT_ADD, NULL) != 0)
			device->interrupts = false;
		if (!device->interrupts) {
			worker->can_be_woken = false;
			log_warn("port=%s has no receive interrupts: the forwarder polls every "
				 "%d ms when idle; bind the NIC to vfio-pci behind an IOMMU",
				fwd->engine.ports[i].name, NAP_MS);
		}
	}
	watch(&worker->wake_event, fwd->wake_fd);
}

static void *run(void *arg)
{
	struct worker worker = {.fwd = arg};
	const uint64_t spin = rte_get_tsc_hz() / 1000000 * SPIN_US;
	uint64_t idle_since = 0; /* by the time stamp counter; 0: it isn't idle */
	unsigned round = 0;

	/* Gives this thread a cache of packet buffers. */
	if (rte_thread_register() != 0)
		log_warn("the fast path runs without a cache of packet buffers");
	/* The domain was made for one reader, so this can't fail. */
	worker.reader = fib_reader_register(worker.fwd->domain);
	fib_reader_online(worker.reader);
	set_up_sleep(&worker);
	while (!atomic_load_explicit(&worker.fwd->stop, memory_order_relaxed)) {
		if (round_of_work(&worker, round++ % TAP_EVERY == 0) > 0) {
			idle_since = 0;
		} else if (idle_since == 0) {
			idle_since = rte_rdtsc();
		} else if (rte_rdtsc() - idle_since >= spin) {
			sleep_until_work(&worker);
			idle_since = 0;
			round = 0;
		}
	}
	fib_reader_offline(worker.reader);
	fib_reader_unregister(worker.reader);
	rte_thread_unregister();
	return NULL;
}

int worker_start(struct forwarder *fwd, pthread_t *thread)
{
	int error;

	fwd->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (fwd->wake_fd < 0)
		return errno;
	error = pthread_create(thread, NULL, run, fwd);
	if (error == 0)
		pthread_setname_np(*thread, "fast-path");
	return error;
}

void worker_wake(struct forwarder *fwd)
{
	eventfd_write(fwd->wake_fd, 1);
}

void worker_stop(struct forwarder *fwd, pthread_t thread)
{
	atomic_store(&fwd->stop, true);
	worker_wake(fwd);
	pthread_join(thread, NULL);
	close(fwd->wake_fd);
}
