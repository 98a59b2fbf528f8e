//! Functions that only compute, by name. Any other may be a stored function, which may write.

/// Keywords that a parenthesis may follow without a function being called.
pub(super) fn takes_parenthesis(word: &[u8]) -> bool {
    KEYWORDS.binary_search(&word).is_ok()
}

/// Whether a function of this name, in capitals, is built in and computes from its arguments, the tables and the clock alone.
pub(super) fn only_computes(word: &[u8]) -> bool {
    FUNCTIONS.binary_search(&word).is_ok()
}

/// Sorted.
#[rustfmt::skip]
const KEYWORDS: &[&[u8]] = &[
    b"ALL", b"AND", b"ANY", b"AS", b"BETWEEN", b"BINARY", b"BY", b"CASE", b"CHAR", b"COLLATE", b"CONVERT",
    b"DATETIME", b"DECIMAL", b"DISTINCT", b"DISTINCTROW", b"DIV", b"DOUBLE", b"ELSE", b"EXCEPT", b"EXISTS",
    b"FLOAT", b"FORCE", b"FROM", b"GROUP", b"HAVING", b"IGNORE", b"IN", b"INDEX", b"INTEGER", b"INTERSECT",
    b"INTERVAL", b"IS", b"JOIN", b"KEY", b"LATERAL", b"LIKE", b"LIMIT", b"MOD", b"NCHAR", b"NOT", b"OF",
    b"OFFSET", b"ON", b"OR", b"ORDER", b"OVER", b"PARTITION", b"REGEXP", b"RLIKE", b"ROW", b"SELECT",
    b"SEPARATOR", b"SIGNED", b"SOME", b"STRAIGHT_JOIN", b"THEN", b"TIME", b"TIMESTAMP", b"UNION",
    b"UNSIGNED", b"USE", b"USING", b"VALUES", b"VARCHAR", b"WHEN", b"WHERE", b"XOR",
];

/// Sorted.
#[rustfmt::skip]
const FUNCTIONS: &[&[u8]] = &[
    b"ABS", b"ACOS", b"ADDDATE", b"ADDTIME", b"AES_DECRYPT", b"AES_ENCRYPT", b"AGAINST", b"ASCII", b"ASIN",
    b"ATAN", b"ATAN2", b"AVG", b"BENCHMARK", b"BIN", b"BINARY", b"BIT_AND", b"BIT_COUNT", b"BIT_LENGTH",
    b"BIT_OR", b"BIT_XOR", b"CAST", b"CEIL", b"CEILING", b"CHAR", b"CHARACTER_LENGTH", b"CHARSET",
    b"CHAR_LENGTH", b"CHR", b"COALESCE", b"COERCIBILITY", b"COLLATION", b"COMPRESS", b"CONCAT",
    b"CONCAT_WS", b"CONV", b"CONVERT", b"CONVERT_TZ", b"COS", b"COT", b"COUNT", b"CRC32", b"CUME_DIST",
    b"CURDATE", b"CURRENT_DATE", b"CURRENT_TIME", b"CURRENT_TIMESTAMP", b"CURRENT_USER", b"CURTIME",
    b"DATABASE", b"DATE", b"DATEDIFF", b"DATE_ADD", b"DATE_FORMAT", b"DATE_SUB", b"DAY", b"DAYNAME",
    b"DAYOFMONTH", b"DAYOFWEEK", b"DAYOFYEAR", b"DEFAULT", b"DEGREES", b"DENSE_RANK", b"ELT", b"EXP",
    b"EXPORT_SET", b"EXTRACT", b"EXTRACTVALUE", b"FIELD", b"FIND_IN_SET", b"FIRST_VALUE", b"FLOOR",
    b"FORMAT", b"FROM_BASE64", b"FROM_DAYS", b"FROM_UNIXTIME", b"GET_FORMAT", b"GREATEST", b"GROUP_CONCAT",
    b"HEX", b"HOUR", b"IF", b"IFNULL", b"INET6_ATON", b"INET6_NTOA", b"INET_ATON", b"INET_NTOA", b"INSERT",
    b"INSTR", b"INTERVAL", b"ISNULL", b"IS_IPV4", b"IS_IPV6", b"JSON_ARRAY", b"JSON_ARRAYAGG",
    b"JSON_ARRAY_APPEND", b"JSON_ARRAY_INSERT", b"JSON_COMPACT", b"JSON_CONTAINS", b"JSON_CONTAINS_PATH",
    b"JSON_DEPTH", b"JSON_DETAILED", b"JSON_EXISTS", b"JSON_EXTRACT", b"JSON_INSERT", b"JSON_KEYS",
    b"JSON_LENGTH", b"JSON_LOOSE", b"JSON_MERGE", b"JSON_MERGE_PATCH", b"JSON_MERGE_PRESERVE",
    b"JSON_OBJECT", b"JSON_OBJECTAGG", b"JSON_QUERY", b"JSON_QUOTE", b"JSON_REMOVE", b"JSON_REPLACE",
    b"JSON_SEARCH", b"JSON_SET", b"JSON_TABLE", b"JSON_TYPE", b"JSON_UNQUOTE", b"JSON_VALID", b"JSON_VALUE",
    b"LAG", b"LAST_DAY", b"LAST_VALUE", b"LCASE", b"LEAD", b"LEAST", b"LEFT", b"LENGTH", b"LENGTHB", b"LN",
    b"LOCALTIME", b"LOCALTIMESTAMP", b"LOCATE", b"LOG", b"LOG10", b"LOG2", b"LOWER", b"LPAD", b"LTRIM",
    b"MAKEDATE", b"MAKETIME", b"MAKE_SET", b"MATCH", b"MAX", b"MD5", b"MEDIAN", b"MICROSECOND", b"MID",
    b"MIN", b"MINUTE", b"MOD", b"MONTH", b"MONTHNAME", b"NATURAL_SORT_KEY", b"NOW", b"NTH_VALUE", b"NTILE",
    b"NULLIF", b"NVL", b"NVL2", b"OCT", b"OCTET_LENGTH", b"ORD", b"PERCENTILE_CONT", b"PERCENTILE_DISC",
    b"PERCENT_RANK", b"PERIOD_ADD", b"PERIOD_DIFF", b"PI", b"POINT", b"POSITION", b"POW", b"POWER",
    b"QUARTER", b"QUOTE", b"RADIANS", b"RAND", b"RANDOM_BYTES", b"RANK", b"REGEXP_INSTR", b"REGEXP_REPLACE",
    b"REGEXP_SUBSTR", b"REPEAT", b"REPLACE", b"REVERSE", b"RIGHT", b"ROUND", b"ROW_NUMBER", b"RPAD",
    b"RTRIM", b"SCHEMA", b"SECOND", b"SEC_TO_TIME", b"SESSION_USER", b"SFORMAT", b"SHA", b"SHA1", b"SHA2",
    b"SIGN", b"SIN", b"SLEEP", b"SOUNDEX", b"SPACE", b"SQRT", b"STD", b"STDDEV", b"STDDEV_POP",
    b"STDDEV_SAMP", b"STRCMP", b"STR_TO_DATE", b"ST_ASGEOJSON", b"ST_ASTEXT", b"ST_ASWKB", b"ST_CONTAINS",
    b"ST_DISTANCE", b"ST_DISTANCE_SPHERE", b"ST_GEOMFROMTEXT", b"ST_GEOMFROMWKB", b"ST_INTERSECTS",
    b"ST_WITHIN", b"ST_X", b"ST_Y", b"SUBDATE", b"SUBSTR", b"SUBSTRING", b"SUBSTRING_INDEX", b"SUBTIME",
    b"SUM", b"SYSDATE", b"SYSTEM_USER", b"TAN", b"TIME", b"TIMEDIFF", b"TIMESTAMP", b"TIMESTAMPADD",
    b"TIMESTAMPDIFF", b"TIME_FORMAT", b"TIME_TO_SEC", b"TO_BASE64", b"TO_CHAR", b"TO_DAYS", b"TO_SECONDS",
    b"TRIM", b"TRUNCATE", b"UCASE", b"UNCOMPRESS", b"UNCOMPRESSED_LENGTH", b"UNHEX", b"UNIX_TIMESTAMP",
    b"UPDATEXML", b"UPPER", b"USER", b"UTC_DATE", b"UTC_TIME", b"UTC_TIMESTAMP", b"UUID", b"UUID_SHORT",
    b"VALUE", b"VALUES", b"VARIANCE", b"VAR_POP", b"VAR_SAMP", b"VERSION", b"WEEK", b"WEEKDAY",
    b"WEEKOFYEAR", b"WEIGHT_STRING", b"YEAR", b"YEARWEEK",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_sorted() {
        assert!(KEYWORDS.is_sorted());
        assert!(FUNCTIONS.is_sorted());
    }
}
