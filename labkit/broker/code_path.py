"""Where a broker looks for its code: in few folders, those with the most of it first.

RabbitMQ loads some 1,250 modules as it starts, and Erlang looks for each of them in 93 folders, one
after the other: 52,000 files that are not there (3.10.8, by strace), a third of a start's time. Most
of the folders belong to plugins that the course has no use for.
"""

from __future__ import annotations

from collections.abc import Sequence

#: Run by Erlang before RabbitMQ. The folder gets a link to each plugin that is wanted and to all
#: that it needs; RabbitMQ puts what it finds there in front of all other code. The rest is put in
#: order by size, and where Erlang can (from 26 on) it remembers what each folder has.
#: Where RabbitMQ's plugins are archives, or anything is unexpected, all stays as it is. It holds no
#: string: a double quote would end it, so the variable's name comes with the arguments.
_EXPRESSION = """
catch begin
  {ok, [[Variable, Folder | Wanted]]} = init:get_argument(labkit_plugins),
  Needs = fun(Needs, App, Found) ->
    case lists:member(App, Found)
         orelse file:consult(code:where_is_file(atom_to_list(App) ++ [$., $a, $p, $p])) of
      {ok, [{application, _, Keys}]} ->
        All = proplists:get_value(applications, Keys, []),
        lists:foldl(fun(Next, Sofar) -> Needs(Needs, Next, Sofar) end, [App | Found], All);
      _ -> Found
    end
  end,
  Core = Needs(Needs, rabbit, []),
  Known = fun(Name, Sofar) -> Needs(Needs, list_to_atom(Name), Sofar) end,
  Apps = [rabbit | lists:foldl(Known, Core, Wanted) -- Core],
  Plugins = filename:dirname(code:lib_dir(rabbit)),
  Dirs = [Dir || Dir <- [code:lib_dir(App) || App <- Apps], filename:dirname(Dir) =/= code:lib_dir()],
  true = lists:all(fun(Dir) -> filelib:is_dir(Dir) andalso filename:dirname(Dir) =:= Plugins end, Dirs),
  file:make_dir(Folder),
  [file:make_symlink(Dir, filename:join(Folder, filename:basename(Dir))) || Dir <- Dirs],
  os:putenv(Variable, Folder),
  Size = fun(Dir) -> case file:list_dir(Dir) of {ok, Files} -> length(Files); _ -> 0 end end,
  Sizes = lists:reverse(lists:keysort(1, [{Size(Dir), Dir} || Dir <- code:get_path()])),
  Remembers = erlang:function_exported(code, set_path, 2),
  apply(code, set_path, [[Dir || {_, Dir} <- Sizes] | [cache || Remembers]])
end.
"""


def flags(folder: str, plugins: Sequence[str]) -> dict[str, str]:
    """The variables that have Erlang look where the code is.

    Args:
        folder: where RabbitMQ finds its plugins then; made by the server where it is not there.
        plugins: the names of those that the broker loads.
    """
    wanted = f'-labkit_plugins RABBITMQ_PLUGINS_DIR "{folder}" {" ".join(plugins)}'
    return {"ERL_AFLAGS": f'{wanted} -eval "{" ".join(_EXPRESSION.split())}"'}
