/* Stands at /bin/bash of the test image, because upstream manifests start containers with
   `/bin/bash -c`: runs busybox's shell, which refuses to be called bash itself. */
#include <unistd.h>

int main(int argc, char **argv) {
    (void)argc;
    argv[0] = "sh";
    execv("/bin/busybox", argv);
    return 127;
}
