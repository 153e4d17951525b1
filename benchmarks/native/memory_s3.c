/* An S3 server that is not the limit: objects in memory, one thread, no signatures checked.
 *
 * For what a real server would hide: the ceiling of a client with no delay, and a million objects. It keeps headers and
 * user metadata, computes ETags (MD5, of several bodies at a time) and refuses a body that is not the one of its
 * Content-MD5, lists in key order with StartAfter, continuation and delimiter, and counts the requests it answers. It
 * knows GetObject (also of a Range), HeadObject, PutObject, DeleteObject, ListObjectsV2, buckets of any name, and
 * GET /-/counts; everything else (multipart uploads, copies on the server, chunked bodies) it refuses with 501.
 *
 * Usage: memory_s3 ADDRESS PORT [EVERY MILLISECONDS]
 *
 * Prints "ready" and runs until its standard input closes. With EVERY, every so manyth GetObject is answered only after
 * MILLISECONDS.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define LEVELS 20
#define HEAD_BYTES 16384
#define LIST_BYTES (1 << 20)
#define PAGE 1000
#define EVENTS 256

static void die(const char *what) {
  fprintf(stderr, "memory_s3: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void *take_memory(size_t bytes) {
  void *memory = malloc(bytes ? bytes : 1);
  if (!memory) die("malloc");
  return memory;
}

/* ---- MD5 (RFC 1321) ------------------------------------------------------------------------------------------ */

static const uint32_t SINES[64] = {
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501, 0x698098d8,
    0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821, 0xf61e2562, 0xc040b340,
    0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8, 0x21e1cde6, 0xc33707d6, 0xf4d50d87,
    0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a, 0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c,
    0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70, 0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039,
    0xe6db99e5, 0x1fa27cf8, 0xc4ac5665, 0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92,
    0xffeff47d, 0x85845dd1, 0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb,
    0xeb86d391};

#define TURN(x, n) (((x) << (n)) | ((x) >> (32 - (n))))
#define STEP(f, a, b, c, d, word, i, n) a = b + TURN(a + (f) + SINES[i] + (word), n)
#define F(b, c, d) (d ^ (b & (c ^ d)))
#define G(b, c, d) (c ^ (d & (b ^ c)))
#define H(b, c, d) (b ^ c ^ d)
#define I(b, c, d) (c ^ (b | ~d))
#define FOUR(f, i, w0, w1, w2, w3, n0, n1, n2, n3)          \
  STEP(f(b, c, d), a, b, c, d, words[w0], i, n0);           \
  STEP(f(a, b, c), d, a, b, c, words[w1], (i) + 1, n1);     \
  STEP(f(d, a, b), c, d, a, b, words[w2], (i) + 2, n2);     \
  STEP(f(c, d, a), b, c, d, a, words[w3], (i) + 3, n3)

/* The same steps for eight bodies at a time, or for one: as MD5 cannot be faster for one, servers that have many to
 * hash take them side by side. */
#define LANES 8
#define WORTH_SIDE_BY_SIDE 3 /* so many hashes, and eight at a time are faster than one after the other */
typedef uint32_t lanes_of_words __attribute__((vector_size(4 * LANES)));

#define ALL_STEPS                                 \
  FOUR(F, 0, 0, 1, 2, 3, 7, 12, 17, 22);          \
  FOUR(F, 4, 4, 5, 6, 7, 7, 12, 17, 22);          \
  FOUR(F, 8, 8, 9, 10, 11, 7, 12, 17, 22);        \
  FOUR(F, 12, 12, 13, 14, 15, 7, 12, 17, 22);     \
  FOUR(G, 16, 1, 6, 11, 0, 5, 9, 14, 20);         \
  FOUR(G, 20, 5, 10, 15, 4, 5, 9, 14, 20);        \
  FOUR(G, 24, 9, 14, 3, 8, 5, 9, 14, 20);         \
  FOUR(G, 28, 13, 2, 7, 12, 5, 9, 14, 20);        \
  FOUR(H, 32, 5, 8, 11, 14, 4, 11, 16, 23);       \
  FOUR(H, 36, 1, 4, 7, 10, 4, 11, 16, 23);        \
  FOUR(H, 40, 13, 0, 3, 6, 4, 11, 16, 23);        \
  FOUR(H, 44, 9, 12, 15, 2, 4, 11, 16, 23);       \
  FOUR(I, 48, 0, 7, 14, 5, 6, 10, 15, 21);        \
  FOUR(I, 52, 12, 3, 10, 1, 6, 10, 15, 21);       \
  FOUR(I, 56, 8, 15, 6, 13, 6, 10, 15, 21);       \
  FOUR(I, 60, 4, 11, 2, 9, 6, 10, 15, 21)

struct hash { /* an MD5 that is being computed: whole blocks of the body, then its rest and what is appended to it */
  const unsigned char *body;
  char *hex;
  uint32_t state[4];
  size_t at, whole, end;
  unsigned char rest[128];
};

static void md5_begin(struct hash *hash, const void *body, size_t length, char *hex) {
  size_t left = length % 64, padded = left < 56 ? 64 : 128;
  *hash = (struct hash){.body = body, .hex = hex, .state = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}};
  hash->whole = length - left;
  hash->end = hash->whole + padded;
  memcpy(hash->rest, hash->body + hash->whole, left);
  hash->rest[left] = 0x80;
  uint64_t bits = (uint64_t)length * 8;
  memcpy(hash->rest + padded - 8, &bits, 8);
}

static const unsigned char *md5_block(const struct hash *hash) {
  return hash->at < hash->whole ? hash->body + hash->at : hash->rest + (hash->at - hash->whole);
}

/* Blocks that lie one behind the other in memory from here. */
static size_t md5_run(const struct hash *hash) {
  return ((hash->at < hash->whole ? hash->whole : hash->end) - hash->at) / 64;
}

static void md5_one(struct hash *hash) {
  uint32_t *state = hash->state;
  for (; hash->at < hash->end; hash->at += 64) {
    uint32_t words[16], a = state[0], b = state[1], c = state[2], d = state[3];
    memcpy(words, md5_block(hash), 64); /* little-endian machines only, as x86 and ARM are */
    ALL_STEPS;
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
  }
}

/* Takes `blocks` of each of the hashes, fewer than LANES if need be. */
static void md5_many(struct hash *hashes, int count, size_t blocks) {
  lanes_of_words state[4], words[16];
  const unsigned char *from[LANES];
  for (int lane = 0; lane < LANES; lane++) {
    const struct hash *hash = &hashes[lane < count ? lane : 0];
    from[lane] = md5_block(hash);
    for (int i = 0; i < 4; i++) state[i][lane] = hash->state[i];
  }
  for (size_t block = 0; block < blocks; block++) {
    for (int i = 0; i < 16; i++) {
      uint32_t row[LANES];
      for (int lane = 0; lane < LANES; lane++) memcpy(&row[lane], from[lane] + 64 * block + 4 * (size_t)i, 4);
      memcpy(&words[i], row, sizeof row);
    }
    lanes_of_words a = state[0], b = state[1], c = state[2], d = state[3];
    ALL_STEPS;
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
  }
  for (int lane = 0; lane < count; lane++) {
    for (int i = 0; i < 4; i++) hashes[lane].state[i] = state[i][lane];
    hashes[lane].at += 64 * blocks;
  }
}

static void md5_tell(const struct hash *hash) {
  const unsigned char *digest = (const unsigned char *)hash->state;
  for (int i = 0; i < 16; i++) sprintf(hash->hex + 2 * i, "%02x", digest[i]);
}

/* ---- Objects, in key order (a skip list) --------------------------------------------------------------------- */

struct content { /* what an object holds; kept while an answer is being sent */
  int users;
  size_t length;
  char etag[33];
  char wanted[25]; /* its Content-MD5; empty: none was sent */
  char *headers; /* lines to send with it */
  time_t written;
  int private; /* its ACL: private, or public-read */
  char bytes[];
};

struct object {
  char *path; /* bucket/key */
  struct content *content;
  int levels;
  struct object *next[];
};

static struct object *start;

static void release(struct content *content) {
  if (content && --content->users == 0) {
    free(content->headers);
    free(content);
  }
}

/* Returns the first object at or after a path; `before`, where given, takes the one before it at each level. */
static struct object *seek(const char *path, struct object **before) {
  struct object *at = start;
  for (int level = LEVELS - 1; level >= 0; level--) {
    while (at->next[level] && strcmp(at->next[level]->path, path) < 0) at = at->next[level];
    if (before) before[level] = at;
  }
  return at->next[0];
}

static struct object *find(const char *path) {
  struct object *object = seek(path, NULL);
  return object && strcmp(object->path, path) == 0 ? object : NULL;
}

static void store(const char *path, struct content *content) {
  struct object *before[LEVELS], *object = seek(path, before);
  if (object && strcmp(object->path, path) == 0) {
    release(object->content);
    object->content = content;
    return;
  }
  int levels = 1;
  while (levels < LEVELS && (random() & 3) == 0) levels++;
  object = take_memory(sizeof *object + (size_t)levels * sizeof object->next[0]);
  object->path = strdup(path);
  object->content = content;
  object->levels = levels;
  for (int level = 0; level < levels; level++) {
    object->next[level] = before[level]->next[level];
    before[level]->next[level] = object;
  }
}

static void drop(const char *path) {
  struct object *before[LEVELS], *object = seek(path, before);
  if (!object || strcmp(object->path, path) != 0) return;
  for (int level = 0; level < object->levels; level++) before[level]->next[level] = object->next[level];
  release(object->content);
  free(object->path);
  free(object);
}

/* ---- Connections ---------------------------------------------------------------------------------------------- */

enum request { GET, HEAD, PUT, DELETE, LIST, OTHER, KINDS };
static const char *const NAMES[KINDS] = {"GET", "HEAD", "PUT", "DELETE", "LIST", "OTHER"};
static long long counts[KINDS];

struct connection {
  int socket;
  char head[HEAD_BYTES + 1]; /* request bytes not yet dealt with */
  size_t held;
  struct content *coming; /* body of a PUT that is being received */
  size_t received;
  char path[4096];
  char *answer; /* head of the answer, or all of it */
  size_t answer_length, sent;
  struct content *body; /* body of the answer: these bytes of it */
  size_t body_from, body_length;
  int waiting;          /* the PUT's body is here and its MD5 is not computed yet */
  long long stalled_until; /* milliseconds; 0: not stalled */
  struct connection *stalled_next;
  int closing;
};

static int poller;
static struct connection *complete[EVENTS]; /* those that wait */
static int complete_count;

static void end(struct connection *connection) {
  close(connection->socket);
  release(connection->coming);
  release(connection->body);
  free(connection->answer);
  free(connection);
}

/* Connections whose answer is held back, the first to go on first: all wait equally long. */
static int stall_every, stall_ms;
static struct connection *stalled_first, **stalled_end = &stalled_first;

static long long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void stall(struct connection *connection) {
  connection->stalled_until = now_ms() + stall_ms;
  connection->stalled_next = NULL;
  *stalled_end = connection;
  stalled_end = &connection->stalled_next;
}

static void answer(struct connection *connection, const char *status, const char *headers, const char *type,
                   const char *body, size_t length) {
  connection->answer = take_memory(length + strlen(headers) + 256);
  int head = sprintf(connection->answer, "HTTP/1.1 %s\r\n%s%s%s%sContent-Length: %zu\r\n\r\n", status, headers,
                     type ? "Content-Type: " : "", type ? type : "", type ? "\r\n" : "", length);
  memcpy(connection->answer + head, body, length);
  connection->answer_length = (size_t)head + length;
  connection->sent = 0;
}

static void refuse(struct connection *connection, const char *status, const char *code, int no_body) {
  char xml[256];
  int length = sprintf(xml, "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>%s</Code></Error>", code);
  answer(connection, status, "", "application/xml", xml, no_body ? 0 : (size_t)length);
}

/* Returns 0 when all is sent, 1 when the socket takes no more for now, -1 when it is gone. */
static int send_answer(struct connection *connection) {
  size_t body_length = connection->body ? connection->body_length : 0;
  while (connection->sent < connection->answer_length + body_length) {
    struct iovec parts[2];
    int count = 0;
    if (connection->sent < connection->answer_length)
      parts[count++] = (struct iovec){connection->answer + connection->sent,
                                      connection->answer_length - connection->sent};
    if (body_length) {
      size_t done = connection->sent > connection->answer_length ? connection->sent - connection->answer_length : 0;
      parts[count++] = (struct iovec){connection->body->bytes + connection->body_from + done, body_length - done};
    }
    ssize_t sent = writev(connection->socket, parts, count);
    if (sent < 0) return errno == EAGAIN ? 1 : -1;
    connection->sent += (size_t)sent;
  }
  free(connection->answer);
  connection->answer = NULL;
  release(connection->body);
  connection->body = NULL;
  return 0;
}

/* ---- Requests ------------------------------------------------------------------------------------------------- */

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 32;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void decode(char *text) {
  char *to = text;
  for (char *from = text; *from; from++) {
    if (*from == '%' && hex_digit(from[1]) >= 0 && hex_digit(from[2]) >= 0) {
      *to++ = (char)(hex_digit(from[1]) * 16 + hex_digit(from[2]));
      from += 2;
    } else {
      *to++ = *from == '+' ? ' ' : *from;
    }
  }
  *to = 0;
}

/* Returns the value of a header (ends at the line's end), or NULL. `head` starts at the first header's line. */
static const char *header(const char *head, const char *name) {
  size_t length = strlen(name);
  for (const char *line = head; line[0] != '\r'; line = strstr(line, "\r\n") + 2)
    if (strncasecmp(line, name, length) == 0 && line[length] == ':') {
      line += length + 1;
      while (*line == ' ') line++;
      return line;
    }
  return NULL;
}

static const char *const KEPT[] = {"content-type:",     "cache-control:",       "content-disposition:",
                                   "content-encoding:", "content-language:",    "x-amz-storage-class:",
                                   "x-amz-meta-",       NULL};

static char *kept_headers(const char *head) {
  char *kept = take_memory(strlen(head) + 1), *to = kept;
  for (const char *line = head; line[0] != '\r';) {
    const char *next = strstr(line, "\r\n") + 2;
    for (int i = 0; KEPT[i]; i++)
      if (strncasecmp(line, KEPT[i], strlen(KEPT[i])) == 0) {
        memcpy(to, line, (size_t)(next - line));
        to += next - line;
        break;
      }
    line = next;
  }
  *to = 0;
  return kept;
}

static void time_text(time_t time, const char *form, char text[40]) {
  struct tm parts;
  gmtime_r(&time, &parts);
  strftime(text, 40, form, &parts);
}

/* A parameter of the query, decoded, into `value`; "" where it is absent. Returns whether it is there. */
static int parameter(const char *query, const char *name, char value[2048]) {
  size_t length = strlen(name);
  value[0] = 0;
  for (const char *at = query; at && *at; at = strchr(at, '&') ? strchr(at, '&') + 1 : NULL)
    if (strncmp(at, name, length) == 0 && (at[length] == '=' || at[length] == '&' || at[length] == 0)) {
      if (at[length] == '=') snprintf(value, 2048, "%.*s", (int)strcspn(at + length + 1, "&"), at + length + 1);
      decode(value);
      return 1;
    }
  return 0;
}

/* The benchmark's keys need no escaping in XML or URLs: others are not listed rightly, so they are not taken. */
static int plain(const char *path) {
  for (; *path; path++)
    if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-", *path)) return 0;
  return 1;
}

static void list(struct connection *connection, const char *bucket, const char *query) {
  static char xml[LIST_BYTES];
  char prefix[2048], after[2048], token[2048], delimiter[2048], number[2048], path[8192], skip[8192] = "";
  parameter(query, "prefix", prefix);
  parameter(query, "start-after", after);
  parameter(query, "continuation-token", token);
  parameter(query, "delimiter", delimiter);
  int page = parameter(query, "max-keys", number) ? atoi(number) : PAGE, taken = 0, truncated = 0;
  if (page > PAGE) page = PAGE;
  if (token[0]) strcpy(after, token);
  size_t cut = strlen(bucket) + 1, whole = (size_t)sprintf(path, "%s/%s", bucket, prefix);
  int length = sprintf(xml, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>"
                            "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
                            "<Name>%s</Name><Prefix>%s</Prefix><MaxKeys>%d</MaxKeys>", bucket, prefix, page);
  char from[8192], last[2048] = "";
  sprintf(from, "%s/%s", bucket, after);
  struct object *object = seek(strcmp(from, path) > 0 ? from : path, NULL);
  if (object && after[0] && strcmp(object->path, from) == 0) object = object->next[0];
  /* A continuation after a common prefix goes on behind all that it stands for. */
  if (delimiter[0] && after[0] && after[strlen(after) - 1] == '/') {
    from[strlen(from) - 1] = '/' + 1;
    object = seek(strcmp(from, path) > 0 ? from : path, NULL);
  }
  while (object && strncmp(object->path, path, whole) == 0) {
    if (taken == page) {
      truncated = 1;
      break;
    }
    const char *key = object->path + cut, *slash = delimiter[0] ? strchr(object->path + whole, '/') : NULL;
    if (slash) {
      int common = (int)(slash + 1 - key);
      length += sprintf(xml + length, "<CommonPrefixes><Prefix>%.*s</Prefix></CommonPrefixes>", common, key);
      sprintf(last, "%.*s", common, key);
      sprintf(skip, "%s/%.*s%c", bucket, common - 1, key, '/' + 1);
      object = seek(skip, NULL);
    } else {
      char written[40];
      time_text(object->content->written, "%Y-%m-%dT%H:%M:%S.000Z", written);
      length += sprintf(xml + length,
                        "<Contents><Key>%s</Key><LastModified>%s</LastModified><ETag>&quot;%s&quot;</ETag>"
                        "<Size>%zu</Size><StorageClass>STANDARD</StorageClass></Contents>",
                        key, written, object->content->etag, object->content->length);
      sprintf(last, "%s", key);
      object = object->next[0];
    }
    taken++;
  }
  length += sprintf(xml + length, "<KeyCount>%d</KeyCount><IsTruncated>%s</IsTruncated>", taken,
                    truncated ? "true" : "false");
  if (truncated) length += sprintf(xml + length, "<NextContinuationToken>%s</NextContinuationToken>", last);
  length += sprintf(xml + length, "</ListBucketResult>");
  answer(connection, "200 OK", "", "application/xml", xml, (size_t)length);
}

/* `range`: a header's value as "bytes=FIRST-LAST" or "bytes=FIRST-", or NULL. */
static void tell(struct connection *connection, struct object *object, int with_body, const char *range) {
  char headers[HEAD_BYTES + 512], written[40], part[100] = "";
  size_t whole = object->content->length, first = 0, last = whole ? whole - 1 : 0;
  int bounds = range ? sscanf(range, "bytes=%zu-%zu", &first, &last) : 0;
  if (bounds > 0 && first >= whole) {
    refuse(connection, "416 Range Not Satisfiable", "InvalidRange", !with_body);
    return;
  }
  if (last >= whole && whole) last = whole - 1;
  size_t length = whole ? last - first + 1 : 0;
  if (bounds > 0) sprintf(part, "Content-Range: bytes %zu-%zu/%zu\r\n", first, last, whole);
  time_text(object->content->written, "%a, %d %b %Y %H:%M:%S GMT", written);
  sprintf(headers, "%sETag: \"%s\"\r\nLast-Modified: %s\r\n%s", object->content->headers, object->content->etag,
          written, part);
  connection->answer = take_memory(strlen(headers) + 256);
  connection->answer_length = (size_t)sprintf(connection->answer, "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\n\r\n",
                                              bounds > 0 ? "206 Partial Content" : "200 OK", headers, length);
  connection->sent = 0;
  if (with_body) {
    connection->body = object->content;
    connection->body_from = first;
    connection->body_length = length;
    object->content->users++;
  }
}

static void tell_acl(struct connection *connection, const struct object *object) {
  static const char *const owner = "<Owner><ID>owner</ID></Owner>";
  static const char *const everybody =
      "<Grant><Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"Group\">"
      "<URI>http://acs.amazonaws.com/groups/global/AllUsers</URI></Grantee><Permission>READ</Permission></Grant>";
  char xml[1024];
  int length = sprintf(xml,
                       "<?xml version=\"1.0\" encoding=\"UTF-8\"?><AccessControlPolicy "
                       "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">%s<AccessControlList>%s</AccessControlList>"
                       "</AccessControlPolicy>",
                       owner, object->content->private ? "" : everybody);
  answer(connection, "200 OK", "", "application/xml", xml, (size_t)length);
}

static int wants_private(const char *headers) {
  const char *acl = header(headers, "x-amz-acl");
  return acl && strncmp(acl, "private", 7) == 0;
}

static void tell_counts(struct connection *connection) {
  char text[512];
  int length = 0;
  for (int kind = 0; kind < KINDS; kind++) length += sprintf(text + length, "%s %lld\n", NAMES[kind], counts[kind]);
  answer(connection, "200 OK", "", "text/plain", text, (size_t)length);
}

/* Writes the base64 of 16 bytes that are given in hex. */
static void in_base64(const char *hex, char base64[25]) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  unsigned char bytes[18] = {0};
  for (int i = 0; i < 16; i++) bytes[i] = (unsigned char)(hex_digit(hex[2 * i]) << 4 | hex_digit(hex[2 * i + 1]));
  for (int i = 0; i < 6; i++) {
    unsigned bits = (unsigned)bytes[3 * i] << 16 | (unsigned)bytes[3 * i + 1] << 8 | bytes[3 * i + 2];
    for (int j = 0; j < 4; j++) base64[4 * i + j] = digits[bits >> (18 - 6 * j) & 63];
  }
  strcpy(base64 + 22, "==");
}

static void finish_put(struct connection *connection) {
  struct content *content = connection->coming;
  connection->coming = NULL;
  char headers[80], md5[25];
  in_base64(content->etag, md5);
  if (content->wanted[0] && strcmp(content->wanted, md5) != 0) {
    release(content);
    refuse(connection, "400 Bad Request", "BadDigest", 0);
    return;
  }
  sprintf(headers, "ETag: \"%s\"\r\n", content->etag);
  store(connection->path, content);
  answer(connection, "200 OK", headers, NULL, "", 0);
}

/* Deals with a request whose head lies in `head`, ended by 0. Sets an answer, or `coming` when a body follows. */
static void handle(struct connection *connection, char *head) {
  char *line_end = strstr(head, "\r\n"), method[16], target[4096];
  const char *headers = line_end + 2;
  *line_end = 0;
  if (sscanf(head, "%15s %4095s", method, target) != 2) {
    connection->closing = 1;
    refuse(connection, "400 Bad Request", "BadRequest", 0);
    return;
  }
  char *query = strchr(target, '?');
  if (query) *query++ = 0;
  if (query && strncmp(query, "x-id=", 5) == 0) query = NULL; /* the name of the operation, which we know */
  decode(target);
  const char *path = target + 1, *slash = strchr(path, '/');
  int is_bucket = !slash || !slash[1], head_only = strcmp(method, "HEAD") == 0;
  char value[2048];
  if (strcmp(path, "-/counts") == 0) {
    tell_counts(connection);
  } else if (is_bucket && strcmp(method, "GET") == 0 && parameter(query, "list-type", value)) {
    counts[LIST]++;
    char bucket[256];
    snprintf(bucket, sizeof bucket, "%.*s", (int)strcspn(path, "/"), path);
    list(connection, bucket, query);
  } else if (is_bucket && (head_only || strcmp(method, "PUT") == 0)) {
    counts[OTHER]++;
    answer(connection, "200 OK", "", NULL, "", 0);
  } else if (!is_bucket && !query && (head_only || strcmp(method, "GET") == 0)) {
    counts[head_only ? HEAD : GET]++;
    struct object *object = find(path);
    if (object && object->content->private && !header(headers, "authorization"))
      refuse(connection, "403 Forbidden", "AccessDenied", head_only);
    else if (object) tell(connection, object, !head_only, header(headers, "range"));
    else refuse(connection, "404 Not Found", "NoSuchKey", head_only);
    if (!head_only && stall_every && counts[GET] % stall_every == 0) stall(connection);
  } else if (!is_bucket && query && parameter(query, "acl", value) && find(path) &&
             (strcmp(method, "GET") == 0 || strcmp(method, "PUT") == 0)) {
    counts[OTHER]++;
    struct object *object = find(path);
    if (strcmp(method, "PUT") == 0) {
      object->content->private = wants_private(headers);
      answer(connection, "200 OK", "", NULL, "", 0);
    } else {
      tell_acl(connection, object);
    }
  } else if (!is_bucket && strcmp(method, "DELETE") == 0) {
    counts[DELETE]++;
    drop(path);
    answer(connection, "204 No Content", "", NULL, "", 0);
  } else if (!is_bucket && strcmp(method, "PUT") == 0 && plain(path) && header(headers, "content-length") &&
             !header(headers, "x-amz-copy-source") && !header(headers, "x-amz-decoded-content-length") && !query) {
    counts[PUT]++;
    size_t length = (size_t)atoll(header(headers, "content-length"));
    connection->coming = take_memory(sizeof *connection->coming + length);
    *connection->coming = (struct content){.users = 1, .length = length, .written = time(NULL)};
    connection->coming->headers = kept_headers(headers);
    connection->coming->private = wants_private(headers);
    const char *md5 = header(headers, "content-md5");
    if (md5) snprintf(connection->coming->wanted, sizeof connection->coming->wanted, "%.24s", md5);
    connection->received = 0;
    snprintf(connection->path, sizeof connection->path, "%s", path);
    if (header(headers, "expect") && send(connection->socket, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL) < 0)
      connection->closing = 1;
  } else {
    counts[OTHER]++;
    connection->closing = 1; /* a body may follow that nobody reads */
    refuse(connection, "501 Not Implemented", "NotImplemented", head_only);
  }
}

/* Reads and answers until the socket has nothing more, or takes nothing more. Returns -1 when it is gone. */
static int serve(struct connection *connection) {
  while (!connection->waiting && !connection->stalled_until) {
    if (connection->answer) {
      int state = send_answer(connection);
      if (state) return state < 0 ? -1 : 0;
      if (connection->closing) return -1;
    }
    if (connection->coming) {
      struct content *content = connection->coming;
      size_t wanted = content->length - connection->received;
      size_t here = connection->held < wanted ? connection->held : wanted;
      memcpy(content->bytes + connection->received, connection->head, here);
      memmove(connection->head, connection->head + here, connection->held - here);
      connection->held -= here;
      connection->received += here;
      if (connection->received == content->length) {
        connection->waiting = 1;
        complete[complete_count++] = connection;
        break;
      }
      ssize_t got = read(connection->socket, content->bytes + connection->received,
                         content->length - connection->received);
      if (got <= 0) return got < 0 && errno == EAGAIN ? 0 : -1;
      connection->received += (size_t)got;
      continue;
    }
    connection->head[connection->held] = 0;
    char *head_end = strstr(connection->head, "\r\n\r\n");
    if (head_end) {
      char head[HEAD_BYTES + 1];
      size_t length = (size_t)(head_end - connection->head) + 4;
      memcpy(head, connection->head, length);
      head[length] = 0;
      memmove(connection->head, connection->head + length, connection->held - length);
      connection->held -= length;
      handle(connection, head);
      continue;
    }
    if (connection->held == HEAD_BYTES) return -1;
    ssize_t got = read(connection->socket, connection->head + connection->held, HEAD_BYTES - connection->held);
    if (got <= 0) return got < 0 && errno == EAGAIN ? 0 : -1;
    connection->held += (size_t)got;
  }
  return 0;
}

static int longest_first(const void *one, const void *other) {
  size_t a = (*(struct connection *const *)one)->coming->length;
  size_t b = (*(struct connection *const *)other)->coming->length;
  return (a < b) - (a > b);
}

/* Hashes the bodies that have arrived, side by side, and answers their PUTs. */
static void finish_complete(void) {
  struct connection *connections[EVENTS];
  int count = complete_count, next = 0, active = 0;
  memcpy(connections, complete, sizeof connections);
  complete_count = 0;
  qsort(connections, (size_t)count, sizeof connections[0], longest_first);
  struct hash hashes[LANES];
  for (;;) {
    for (; active < LANES && next < count; next++) {
      struct content *content = connections[next]->coming;
      md5_begin(&hashes[active++], content->bytes, content->length, content->etag);
    }
    if (active < WORTH_SIDE_BY_SIDE) break;
    size_t blocks = md5_run(&hashes[0]);
    for (int i = 1; i < active; i++)
      if (md5_run(&hashes[i]) < blocks) blocks = md5_run(&hashes[i]);
    md5_many(hashes, active, blocks);
    for (int i = 0; i < active;) {
      if (hashes[i].at < hashes[i].end) {
        i++;
      } else {
        md5_tell(&hashes[i]);
        hashes[i] = hashes[--active];
      }
    }
  }
  for (int i = 0; i < active; i++) {
    md5_one(&hashes[i]);
    md5_tell(&hashes[i]);
  }
  for (int i = 0; i < count; i++) {
    connections[i]->waiting = 0;
    finish_put(connections[i]);
    if (serve(connections[i]) < 0) end(connections[i]);
  }
}

/* Lets connections go on whose time has come. Returns the milliseconds until the next one's has; -1: there is none. */
static int end_stalls(void) {
  while (stalled_first) {
    struct connection *connection = stalled_first;
    long long left = connection->stalled_until - now_ms();
    if (left > 0) return (int)left;
    stalled_first = connection->stalled_next;
    if (!stalled_first) stalled_end = &stalled_first;
    connection->stalled_until = 0;
    if (serve(connection) < 0) end(connection);
  }
  return -1;
}

static int listen_on(const char *address, int port) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
  struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (inet_pton(AF_INET, address, &name.sin_addr) != 1 || bind(listener, (void *)&name, sizeof name) < 0) die("bind");
  if (listen(listener, 1024) < 0) die("listen");
  return listener;
}

static void watch(int file, void *owner, uint32_t events) {
  struct epoll_event event = {.events = events, .data.ptr = owner};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, file, &event) < 0) die("epoll_ctl");
}

int main(int count, char **arguments) {
  if (count != 3 && count != 5) {
    fprintf(stderr, "usage: memory_s3 ADDRESS PORT [EVERY MILLISECONDS]\n");
    return 2;
  }
  if (count == 5) {
    stall_every = atoi(arguments[3]);
    stall_ms = atoi(arguments[4]);
  }
  start = take_memory(sizeof *start + LEVELS * sizeof start->next[0]);
  memset(start, 0, sizeof *start + LEVELS * sizeof start->next[0]);
  /* Bodies stay: memory for them comes in large pieces, not each from the kernel. */
#ifdef M_MMAP_THRESHOLD
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
  signal(SIGPIPE, SIG_IGN); /* a client that went away is seen at the write */
  poller = epoll_create1(EPOLL_CLOEXEC);
  int listener = listen_on(arguments[1], atoi(arguments[2])), on = 1;
  int input;
  watch(listener, &listener, EPOLLIN);
  watch(STDIN_FILENO, &input, EPOLLIN | EPOLLHUP);
  puts("ready");
  fflush(stdout);
  for (;;) {
    struct epoll_event events[EVENTS];
    int milliseconds = end_stalls();
    while (complete_count) finish_complete();
    int ready = epoll_wait(poller, events, EVENTS, milliseconds);
    for (int i = 0; i < ready; i++) {
      if (events[i].data.ptr == &input) return 0;
      if (events[i].data.ptr == &listener) {
        for (int peer; (peer = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
          setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
          struct connection *connection = calloc(1, sizeof *connection);
          if (!connection) die("calloc");
          connection->socket = peer;
          watch(peer, connection, EPOLLIN | EPOLLOUT | EPOLLET);
        }
        continue;
      }
      if (serve(events[i].data.ptr) < 0) end(events[i].data.ptr);
    }
  }
}
