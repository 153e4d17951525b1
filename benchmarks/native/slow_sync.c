/* Lets each fsync and fdatasync of a process take SLOW_SYNC_MS milliseconds in place of the disk's own time, and counts
   them in the file SLOW_SYNC_COUNT, a byte each. To be preloaded (LD_PRELOAD). */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int slow(void) {
    const char *count = getenv("SLOW_SYNC_COUNT"), *milliseconds = getenv("SLOW_SYNC_MS");
    int file = count ? open(count, O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;
    if (file >= 0) {
        if (write(file, ".", 1) != 1) _exit(99);
        close(file);
    }
    if (milliseconds) usleep(1000 * (useconds_t)atoi(milliseconds));
    return 0;
}

int fsync(int file) { (void)file; return slow(); }
int fdatasync(int file) { (void)file; return slow(); }
