/* physics/materials.h: the words the simulators, the rules and the judge share: colours,
 * backgrounds, materials. */
#ifndef KIN_PHYSICS_MATERIALS_H
#define KIN_PHYSICS_MATERIALS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct kin_colour {
    const char *name;
    uint8_t rgb[3];
    uint8_t shade[3]; /* backgrounds: the other end of a gradient */
} kin_colour;

enum { KIN_OBJECT_COLOURS = 7, KIN_BACKGROUNDS = 5 };
extern const kin_colour kin_object_colour[KIN_OBJECT_COLOURS];
extern const kin_colour kin_background_colour[KIN_BACKGROUNDS];
/* Index by name, or -1. */
int kin_object_colour_find(const char *name);
int kin_background_colour_find(const char *name);

typedef struct kin_material {
    const char *name;      /* "wood" */
    const char *adjective; /* "wooden"; the same as name where there is no other word */
    double density;        /* g/cm3 at room temperature, typical */
    double restitution; /* of a bounce on a hard floor and of a hit between two of a kind; < 0 not
                           simulated */
} kin_material;

/* Row k of the material table, NULL past its end; found by name or adjective (NULL: none). */
const kin_material *kin_material_at(int k);
const kin_material *kin_material_find(const char *word);
/* What an object without a material word is made of. */
const kin_material *kin_material_plain(void);

#endif
