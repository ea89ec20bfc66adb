#include "physics/taxonomy.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *phrase, *title;
} category[KIN_PHYS_CATEGORIES] = {
    {"collision", "Collision"},
    {"rigid body motion", "Rigid Body Motion"},
    {"elastic motion", "Elastic Motion"},
    {"liquid motion", "Liquid Motion"},
    {"gas motion", "Gas Motion"},
    {"deformation", "Deformation"},
    {"no obvious dynamic phenomenon", "No Obvious Dynamic Phenomenon"},
    {"melting", "Melting"},
    {"solidification", "Solidification"},
    {"vaporization", "Vaporization"},
    {"liquefaction", "Liquefaction"},
    {"explosion", "Explosion"},
    {"combustion", "Combustion"},
    {"no obvious thermodynamic phenomenon", "No Obvious Thermodynamic Phenomenon"},
    {"reflection", "Reflection"},
    {"refraction", "Refraction"},
    {"scattering", "Scattering"},
    {"interference and diffraction", "Interference And Diffraction"},
    {"unnatural light source", "Unnatural Light Source"},
    {"no obvious optical phenomenon", "No Obvious Optical Phenomenon"},
    {"yes", "Yes"},
    {"no", "No"},
    {"liquids objects appearance", "Liquids Objects Appearance"},
    {"solid objects appearance", "Solid Objects Appearance"},
    {"gas objects appearance", "Gas Objects Appearance"},
    {"object decomposition and splitting", "Object Decomposition And Splitting"},
    {"mixing of multiple objects", "Mixing Of Multiple Objects"},
    {"object disappearance", "Object Disappearance"},
    {"no change", "No Change"},
};

static const int question_count[KIN_PHYS_QUESTIONS] = {7, 7, 6, 2, 7};
static const char *const question_name[KIN_PHYS_QUESTIONS] = {
    "dynamics", "thermodynamics", "optics", "camera", "objects",
};
static const int label_index[KIN_PHYS_LABELS] = {0,  1,  2,  3,  4,  5,  7,  8, 9,
                                                 10, 11, 12, 14, 15, 16, 17, 18};

/* Other spellings met in published files, in lower case. */
static const struct {
    const char *name;
    int index;
} alias[] = {
    {"unnatural light sources", KIN_PHYS_UNNATURAL_LIGHT},
    {"interference & diffraction", KIN_PHYS_INTERFERENCE},
    {"interference", KIN_PHYS_INTERFERENCE},
    {"diffraction", KIN_PHYS_INTERFERENCE},
    {"liquid objects appearance", KIN_PHYS_LIQUIDS_APPEAR},
    {"liquid object appearance", KIN_PHYS_LIQUIDS_APPEAR},
    {"solids objects appearance", KIN_PHYS_SOLIDS_APPEAR},
    {"gases objects appearance", KIN_PHYS_GASES_APPEAR},
    {"objects disappearance", KIN_PHYS_DISAPPEARANCE},
    {"object decomposition", KIN_PHYS_DECOMPOSITION},
    {"rigid motion", KIN_PHYS_RIGID_BODY_MOTION},
    {"vaporisation", KIN_PHYS_VAPORIZATION},
    {"evaporation", KIN_PHYS_VAPORIZATION},
    {"freezing", KIN_PHYS_SOLIDIFICATION},
    {"condensation", KIN_PHYS_LIQUEFACTION},
    {"burning", KIN_PHYS_COMBUSTION},
};

const char *kin_phys_phrase(int i)
{
    return i >= 0 && i < KIN_PHYS_CATEGORIES ? category[i].phrase : NULL;
}

const char *kin_phys_title(int i)
{
    return i >= 0 && i < KIN_PHYS_CATEGORIES ? category[i].title : NULL;
}

int kin_phys_question_first(int q)
{
    if (q < 0 || q >= KIN_PHYS_QUESTIONS)
        return -1;
    int first = 0;
    for (int k = 0; k < q; k++)
        first += question_count[k];
    return first;
}

int kin_phys_question_count(int q)
{
    return q >= 0 && q < KIN_PHYS_QUESTIONS ? question_count[q] : 0;
}

int kin_phys_question(int i)
{
    for (int q = 0; q < KIN_PHYS_QUESTIONS; q++)
        if (i >= kin_phys_question_first(q) &&
            i < kin_phys_question_first(q) + kin_phys_question_count(q))
            return q;
    return -1;
}

const char *kin_phys_question_name(int q)
{
    return q >= 0 && q < KIN_PHYS_QUESTIONS ? question_name[q] : NULL;
}

int kin_phys_label(int k)
{
    return k >= 0 && k < KIN_PHYS_LABELS ? label_index[k] : -1;
}

bool kin_phys_is_label(int i)
{
    for (int k = 0; k < KIN_PHYS_LABELS; k++)
        if (label_index[k] == i)
            return true;
    return false;
}

/* Lower case, blanks trimmed and joined, trailing . , ; : dropped; false if it does not fit. */
static bool normalise(const char *s, char *out, size_t bytes)
{
    size_t n = 0;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (isspace(c)) {
            if (n > 0 && out[n - 1] != ' ' && n + 1 < bytes)
                out[n++] = ' ';
            continue;
        }
        if (n + 1 >= bytes)
            return false;
        out[n++] = c < 0x80 ? (char)tolower(c) : (char)c;
    }
    while (n > 0 && strchr(" .,;:", out[n - 1]))
        n--;
    out[n] = 0;
    return true;
}

int kin_phys_find(const char *name, kin_phys_match *how)
{
    char low[96];
    kin_phys_match none;
    how = how ? how : &none;
    *how = KIN_PHYS_MATCH_NONE;
    if (!name)
        return -1;
    for (int i = 0; i < KIN_PHYS_CATEGORIES; i++)
        if (strcmp(name, category[i].phrase) == 0 || strcmp(name, category[i].title) == 0) {
            *how = KIN_PHYS_MATCH_EXACT;
            return i;
        }
    if (!normalise(name, low, sizeof low))
        return -1;
    for (int i = 0; i < KIN_PHYS_CATEGORIES; i++)
        if (strcmp(low, category[i].phrase) == 0) {
            *how = KIN_PHYS_MATCH_LOOSE;
            return i;
        }
    for (size_t k = 0; k < sizeof alias / sizeof *alias; k++)
        if (strcmp(low, alias[k].name) == 0) {
            *how = KIN_PHYS_MATCH_ALIAS;
            return alias[k].index;
        }
    return -1;
}

int kin_phys_find_alias_in(const char *text, int q, int from, const char **spelling)
{
    for (size_t k = (size_t)from; k < sizeof alias / sizeof *alias; k++)
        if (kin_phys_question(alias[k].index) == q && strstr(text, alias[k].name)) {
            *spelling = alias[k].name;
            return (int)k;
        }
    return -1;
}

int kin_phys_alias_index(int k)
{
    return alias[k].index;
}

char *kin_phys_list(const float prior[KIN_PHYS_CATEGORIES], int q, char *buf, size_t bytes)
{
    size_t n = 0;
    if (bytes == 0)
        return buf;
    buf[0] = 0;
    for (int i = 0; i < KIN_PHYS_CATEGORIES; i++) {
        if (prior[i] == 0 || (q < 0 ? !kin_phys_is_label(i) : kin_phys_question(i) != q))
            continue;
        int k = snprintf(buf + n, bytes - n, "%s%s", n ? ", " : "", category[i].phrase);
        if (k < 0 || (size_t)k >= bytes - n)
            break;
        n += (size_t)k;
    }
    return buf;
}
