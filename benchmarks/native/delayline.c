/* A link with delay between two network namespaces, for kernels without netem.
 *
 * Two TUN devices, one in the namespace this program is started in (198.18.0.1), one in a new namespace of its own
 * (198.18.0.2, RFC 2544's addresses for benchmarks). Every packet read from one is written to the other DELAY later,
 * in order, none dropped. TCP runs in the kernel at both ends, so handshakes, windows and slow start are real.
 * Packets are up to 64 KB (the devices take segmentation offload): one read and one write for forty segments.
 *
 * Usage: delayline MICROSECONDS PACKET_BYTES     Prints "ready" and runs until its standard input closes.
 * The new namespace is /proc/PID/ns/net of this process. Needs CAP_NET_ADMIN, CAP_SYS_ADMIN and /dev/net/tun.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LARGEST 66000 /* a 64 KB packet and its virtio_net header */
#define BURST 64      /* packets taken from one side before the other has its turn */
#define QUEUE 20000   /* packets the kernel keeps for us; nothing may be dropped */

struct packet {
  struct packet *next;
  int64_t due;
  size_t length;
  char bytes[];
};

struct direction {
  int from, to;
  struct packet *first, *last;
};

static void die(const char *what) {
  fprintf(stderr, "delayline: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void configure(int socket_, const char *name, unsigned long request, struct ifreq *change, const char *what) {
  strncpy(change->ifr_name, name, IFNAMSIZ - 1);
  if (ioctl(socket_, request, change) < 0) die(what);
}

static void address(int socket_, const char *name, unsigned long request, const char *text, const char *what) {
  struct ifreq change = {0};
  struct sockaddr_in *in = (struct sockaddr_in *)&change.ifr_addr;
  in->sin_family = AF_INET;
  inet_pton(AF_INET, text, &in->sin_addr);
  configure(socket_, name, request, &change, what);
}

static void bring_up(int socket_, const char *name) {
  struct ifreq change = {0};
  change.ifr_flags = IFF_UP | IFF_RUNNING;
  configure(socket_, name, SIOCSIFFLAGS, &change, "bring a device up");
}

/* Opens a TUN device in the namespace that the process is in at the moment. */
static int open_end(const char *own, const char *peer, int packet_bytes) {
  const char *name = "delay0";
  int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tun < 0) die("open /dev/net/tun");
  struct ifreq change = {0};
  change.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
  configure(tun, name, TUNSETIFF, &change, "TUNSETIFF");
  if (ioctl(tun, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) < 0) die("TUNSETOFFLOAD");
  int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (control < 0) die("socket");
  address(control, name, SIOCSIFADDR, own, "set the address");
  address(control, name, SIOCSIFDSTADDR, peer, "set the peer's address");
  struct ifreq size = {0};
  size.ifr_mtu = packet_bytes;
  configure(control, name, SIOCSIFMTU, &size, "set the largest packet");
  struct ifreq length = {0};
  length.ifr_qlen = QUEUE;
  configure(control, name, SIOCSIFTXQLEN, &length, "set the queue's length");
  bring_up(control, name);
  bring_up(control, "lo");
  close(control);
  return tun;
}

/* Takes what has come in. Packets of one direction have one delay, so they leave in the order they came. */
static void take(struct direction *way, int64_t delay) {
  static char bytes[LARGEST];
  for (int count = 0; count < BURST; count++) {
    ssize_t length = read(way->from, bytes, sizeof bytes);
    if (length < 0) {
      if (errno == EAGAIN) return;
      die("read");
    }
    struct packet *packet = malloc(sizeof *packet + (size_t)length);
    if (!packet) die("malloc");
    packet->next = NULL;
    packet->due = now() + delay;
    packet->length = (size_t)length;
    memcpy(packet->bytes, bytes, (size_t)length);
    if (way->last) way->last->next = packet;
    else way->first = packet;
    way->last = packet;
  }
}

static void hand_over(struct direction *way) {
  int64_t time = now();
  while (way->first && way->first->due <= time) {
    struct packet *packet = way->first;
    /* A packet the other end refuses (IPv6 chatter of a device that comes up) is none of TCP's. */
    if (write(way->to, packet->bytes, packet->length) < 0 && errno != EINVAL && errno != EIO) die("write");
    way->first = packet->next;
    if (!way->first) way->last = NULL;
    free(packet);
  }
}

int main(int count, char **arguments) {
  if (count != 3) {
    fprintf(stderr, "usage: delayline MICROSECONDS PACKET_BYTES\n");
    return 2;
  }
  int64_t delay = atoll(arguments[1]) * 1000;
  int packet_bytes = atoi(arguments[2]);
  prctl(PR_SET_TIMERSLACK, 1UL);
  int near_end = open_end("198.18.0.1", "198.18.0.2", packet_bytes);
  if (unshare(CLONE_NEWNET) < 0) die("unshare");
  int far_end = open_end("198.18.0.2", "198.18.0.1", packet_bytes);
  puts("ready");
  fflush(stdout);

  struct direction ways[2] = {{near_end, far_end, NULL, NULL}, {far_end, near_end, NULL, NULL}};
  for (;;) {
    int64_t due = INT64_MAX;
    for (int i = 0; i < 2; i++)
      if (ways[i].first && ways[i].first->due < due) due = ways[i].first->due;
    struct pollfd files[3] = {{near_end, POLLIN, 0}, {far_end, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    int64_t wait = due == INT64_MAX ? 0 : due - now();
    if (wait < 0) wait = 0;
    struct timespec limit = {wait / 1000000000, wait % 1000000000};
    if (ppoll(files, 3, due == INT64_MAX ? NULL : &limit, NULL) < 0 && errno != EINTR) die("ppoll");
    if (files[2].revents) return 0;
    for (int i = 0; i < 2; i++) {
      take(&ways[i], delay);
      hand_over(&ways[i]);
    }
  }
}
