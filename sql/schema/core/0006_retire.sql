-- retire_version takes force and a reason now; beside the old form every call would be ambiguous.
DROP FUNCTION IF EXISTS embver.retire_version(text, int);
