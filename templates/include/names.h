// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What the numbers in a unit's other maps are called, so that whoever has the maps needs nothing else to tell
 * people about them. Only user space reads and writes such a map; its half is kubebee/names.py.
 */
#ifndef KB_NAMES_H
#define KB_NAMES_H

/* With the kernel's own 64 bytes an entry fills an allocation of 256. */
#define KB_NAME_BYTES 192

/* Ends in at least one NUL; a longer name is cut. */
struct kb_name {
	char text[KB_NAME_BYTES];
};

#endif
